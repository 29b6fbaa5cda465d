#include "trainer/diffusion/noised_images.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "trainer/kernels/noise_image.hpp"

namespace perrin::trainer {
namespace {

template <typename T>
void fill(const NoisedImages& noised, T* inputs, const Stream& noise, std::span<const std::uint64_t> positions,
          const std::vector<ImageToNoise>& images) {
  const std::int64_t elements = noised.input[0].numel();
  float* targets = noised.target.mutable_data_ptr<float>();
  at::parallel_for(0, static_cast<std::int64_t>(images.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    const auto scratch = std::make_unique_for_overwrite<float[]>(noise_image_scratch(images.front()));
    for (std::int64_t n = begin; n < end; ++n)
      noise_image(images[static_cast<std::size_t>(n)], noise, positions[static_cast<std::size_t>(n)],
                  inputs + n * elements, targets + n * elements, scratch.get());
  });
}

}  // namespace

NoisedImages noise_images(PredictionType prediction, double sigma_data, const at::Tensor& x_0, const at::Tensor& eps,
                          std::span<const NoiseLevel> levels) {
  const at::Tensor x = q_sample(x_0, eps, levels);
  return {.input = network_input(prediction, x, levels, sigma_data),
          .target = network_target(prediction, x_0, eps, levels, sigma_data),
          .x = x,
          .x_0 = x_0,
          .eps = eps};
}

NoisedImages noise_pixels(PredictionType prediction, double sigma_data, const at::Tensor& pixels,
                          const at::Tensor& mirrored, const Stream& noise, std::span<const std::uint64_t> positions,
                          std::span<const NoiseLevel> levels, at::ScalarType type) {
  const std::int64_t count = pixels.size(0);
  if (pixels.dim() != 4 || std::cmp_not_equal(positions.size(), count) || std::cmp_not_equal(levels.size(), count) ||
      (mirrored.defined() && mirrored.numel() != count))
    throw std::invalid_argument("noise_pixels: " + std::to_string(positions.size()) + " positions and " +
                                std::to_string(levels.size()) + " levels for pixels of shape " +
                                c10::str(pixels.sizes()));
  NoisedImages noised;
  noised.input = at::empty(pixels.sizes(), at::TensorOptions(type), at::MemoryFormat::ChannelsLast);
  noised.target = at::empty(pixels.sizes(), at::TensorOptions(at::kFloat), at::MemoryFormat::ChannelsLast);
  if (pixels.numel() == 0) return noised;
  const auto* bytes = pixels.const_data_ptr<std::uint8_t>();
  const bool* mirror = mirrored.defined() ? mirrored.const_data_ptr<bool>() : nullptr;
  std::vector<ImageToNoise> images;
  for (std::size_t n = 0; n < levels.size(); ++n) {
    const Target target = target_of(prediction, levels[n], sigma_data);
    images.push_back({.channels = pixels.size(1),
                      .height = pixels.size(2),
                      .width = pixels.size(3),
                      .pixels = bytes + n * (static_cast<std::size_t>(pixels.numel()) / levels.size()),
                      .mirrored = mirror != nullptr && mirror[n],
                      .alpha = static_cast<float>(levels[n].alpha),
                      .sigma = static_cast<float>(levels[n].sigma),
                      .c_in = static_cast<float>(precondition(prediction, levels[n], sigma_data).c_in),
                      .of_x0 = static_cast<float>(target.of_x0),
                      .of_eps = static_cast<float>(target.of_eps)});
  }
  if (type == at::kFloat)
    fill(noised, noised.input.mutable_data_ptr<float>(), noise, positions, images);
  else
    fill(noised, static_cast<BFloat16*>(noised.input.mutable_data_ptr()), noise, positions, images);
  return noised;
}

}  // namespace perrin::trainer
