#pragma once

#include <map>

#include "trainer/evaluate/feature_extractor.hpp"

namespace perrin::trainer {

/// The extractor that perrin carries: a small network trained on Fashion-MNIST by fashion/train.py, 64 features after a
/// ReLU, ten classes. It makes a number of any images, but a meaningful one of Fashion-MNIST only. Color becomes luma;
/// images of another size than 28x28 are resized.
class FashionNetwork final : public FeatureExtractor {
 public:
  explicit FashionNetwork(at::Device device);

  ImageFeatures extract(const at::Tensor& images) const override;
  const ExtractorIdentity& identity() const override { return identity_; }

 private:
  at::Device device_;
  std::map<std::string, at::Tensor> weights_;
  ExtractorIdentity identity_;
};

}  // namespace perrin::trainer
