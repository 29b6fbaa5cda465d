#include "trainer/evaluate/feature_extractor.hpp"

#include "trainer/evaluate/fashion_network.hpp"
#include "trainer/evaluate/scripted_network.hpp"
#include "trainer/run_error.hpp"

namespace perrin::trainer {

std::unique_ptr<FeatureExtractor> open_extractor(const std::string& extractor, const std::string& sha256,
                                                 at::Device device) {
  if (extractor != "builtin") return std::make_unique<ScriptedNetwork>(extractor, sha256, device);
  auto fashion = std::make_unique<FashionNetwork>(device);
  if (!sha256.empty() && sha256 != fashion->identity().sha256)
    throw RunError("the built-in extractor has SHA-256 " + fashion->identity().sha256 + ", not " + sha256 +
                   "; leave the hash out, or compare with the perrin that has that one");
  return fashion;
}

}  // namespace perrin::trainer
