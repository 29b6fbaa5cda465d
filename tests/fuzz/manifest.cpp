#include "data/manifest.hpp"

#include <cstdlib>
#include <string_view>

#include "tests/fuzz/input.hpp"

using namespace perrin;

/// A manifest that is understood says the same once it is written again.
int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  return fuzz::understand_or_refuse([&] {
    const data::Manifest manifest =
        data::parse_manifest({reinterpret_cast<const char*>(bytes), size}, data::kManifestName);
    if (data::parse_manifest(data::to_json(manifest), data::kManifestName) != manifest) std::abort();
  });
}
