#include "trainer/images.hpp"

#include <ATen/ATen.h>

namespace perrin::trainer {

at::Tensor to_pixel_batch(std::span<const std::uint8_t> pixels, const data::ImageShape& shape, at::Device device) {
  const auto count = static_cast<std::int64_t>(pixels.size() / shape.bytes());
  // Nobody writes to pixels: whoever takes them makes something else of them.
  const at::Tensor bytes = at::from_blob(const_cast<std::uint8_t*>(pixels.data()),
                                         {count, shape.channels, shape.height, shape.width}, at::kByte);
  return bytes.to(device);
}

at::Tensor to_model_range(std::span<const std::uint8_t> pixels, const data::ImageShape& shape, at::Device device) {
  return to_model_range(to_pixel_batch(pixels, shape, device));
}

at::Tensor to_model_range(const at::Tensor& pixels) { return pixels.to(at::kFloat).div_(127.5).sub_(1.0); }

at::Tensor to_pixels(const at::Tensor& images) {
  return images.add(1.0).mul_(127.5).round_().clamp_(0, 255).to(at::kByte).cpu();
}

at::Tensor to_labels(std::span<const std::int32_t> labels, const ModelConfig& model, at::Device device) {
  if (model.num_classes == 0) return {};
  return at::tensor(at::ArrayRef<std::int32_t>(labels.data(), labels.size()), at::kLong).to(device);
}

}  // namespace perrin::trainer
