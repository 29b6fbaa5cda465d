#include "trainer/evaluate/fashion_network.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <span>
#include <stdexcept>
#include <vector>

#include "data/sha256.hpp"
#include "trainer/interchange/safetensors.hpp"

// The bytes of fashion/network.safetensors, by fashion_weights.S.
extern "C" const std::byte perrin_fashion_weights[];
extern "C" const std::byte perrin_fashion_weights_end[];

namespace perrin::trainer {
namespace {

constexpr std::int64_t kSide = 28;

std::span<const std::byte> stored_weights() { return {perrin_fashion_weights, perrin_fashion_weights_end}; }

/// [N, 1, 28, 28] float32 in [-1, 1].
at::Tensor prepared(const at::Tensor& images, at::Device device) {
  at::Tensor x = images.to(device).to(at::kFloat);
  if (x.size(1) == 3) {
    const at::Tensor luma = at::tensor({0.299, 0.587, 0.114}, x.options());  // ITU-R BT.601
    x = (x * luma.view({1, 3, 1, 1})).sum(1, /*keepdim=*/true);
  }
  if (x.size(2) != kSide || x.size(3) != kSide)
    x = at::_upsample_bilinear2d_aa(x, {kSide, kSide}, /*align_corners=*/false);
  return x / 127.5 - 1;
}

}  // namespace

FashionNetwork::FashionNetwork(at::Device device) : device_(device) {
  const std::vector<std::byte> bytes(stored_weights().begin(), stored_weights().end());
  for (const auto& [name, tensor] : tensors_of(SafetensorsFile::from_bytes(bytes, "built-in extractor")))
    weights_[name] = tensor.to(device);
  identity_ = {.name = "fashion",
               .sha256 = data::sha256_hex(stored_weights()),
               .preprocessing = "BT.601 luma, bilinear with antialiasing to 28x28",
               .prefix = "fashion_"};
}

ImageFeatures FashionNetwork::extract(const at::Tensor& images) const {
  if (images.dim() != 4 || images.scalar_type() != at::kByte || (images.size(1) != 1 && images.size(1) != 3))
    throw std::invalid_argument("the built-in extractor takes uint8 [N, C, H, W] with C = 1 or 3");
  const at::NoGradGuard no_grad;
  const auto weight = [this](const std::string& name) { return weights_.at(name); };
  at::Tensor x = prepared(images, device_);
  for (const char* layer : {"conv1", "conv2", "conv3"}) {
    const std::string name = layer;
    x = at::max_pool2d(at::conv2d(x, weight(name + ".weight"), weight(name + ".bias"), 1, 1).relu_(), 2);
  }
  const at::Tensor features = at::linear(x.flatten(1), weight("features.weight"), weight("features.bias")).relu_();
  const at::Tensor logits = at::linear(features, weight("classes.weight"), weight("classes.bias"));
  return {features.cpu(), logits.softmax(1).cpu()};
}

}  // namespace perrin::trainer
