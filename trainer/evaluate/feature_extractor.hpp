#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace perrin::trainer {

/// What an extractor says of a batch.
struct ImageFeatures {
  at::Tensor features;       ///< [N, D] float32, on the CPU
  at::Tensor probabilities;  ///< [N, K] float32, of classes; undefined where the extractor knows none
};

/// Which extractor it is: part of every result, and of every reference that it may be compared with.
struct ExtractorIdentity {
  std::string name;           ///< "inception-2015-12-05", "fashion", or the name of the file
  std::string sha256;         ///< of its file
  std::string preprocessing;  ///< what happens to images before its first layer: another resize is another metric
  std::string prefix;         ///< of the names of its scores: "" for the field's own network, else "fashion_", "NAME_"

  bool operator==(const ExtractorIdentity&) const = default;
};

/// Features of images. What it says of an image may depend, in its last bits, on the other images of the batch's size:
/// whoever wants the same bits gives batches of one size.
class FeatureExtractor {
 public:
  virtual ~FeatureExtractor() = default;

  /// @param images  uint8 [N, C, H, W], C = 1 or 3, 0 to 255
  /// @throws std::invalid_argument for other images; RunError where the extractor itself fails
  virtual ImageFeatures extract(const at::Tensor& images) const = 0;
  virtual const ExtractorIdentity& identity() const = 0;
};

/// @param extractor  "builtin", or the path of a TorchScript file
/// @param sha256  that the file has; for "builtin" it may be empty
/// @throws RunError for a file that is missing, is none, or is not the one that the hash says
std::unique_ptr<FeatureExtractor> open_extractor(const std::string& extractor, const std::string& sha256,
                                                 at::Device device);

}  // namespace perrin::trainer
