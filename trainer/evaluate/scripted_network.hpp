#pragma once

#include <filesystem>
#include <memory>

#include "trainer/evaluate/feature_extractor.hpp"

namespace perrin::trainer {

/// A TorchScript file as extractor: forward(uint8 [N, 3, H, W]) gives features [N, D], or a tuple of features and class
/// probabilities. Where forward takes return_features it is asked with True, and where it takes no_output_bias too, a
/// second call with True gives the class probabilities: so the field's inception-2015-12-05.pt works unchanged. Gray
/// images are repeated to three channels. Fusion is off: the field's file fails under it.
/// Loading runs what the file says, so that nothing is loaded before its SHA-256 is the one that the user gave.
class ScriptedNetwork final : public FeatureExtractor {
 public:
  /// @throws RunError for a file that is missing or no TorchScript, or whose SHA-256 is another
  ScriptedNetwork(const std::filesystem::path& path, const std::string& sha256, at::Device device);
  ~ScriptedNetwork() override;

  ImageFeatures extract(const at::Tensor& images) const override;
  const ExtractorIdentity& identity() const override { return identity_; }

 private:
  struct Module;
  std::unique_ptr<Module> module_;
  at::Device device_;
  ExtractorIdentity identity_;
};

}  // namespace perrin::trainer
