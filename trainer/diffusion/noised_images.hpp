#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "trainer/diffusion/parameterization.hpp"
#include "trainer/random/stream.hpp"

namespace perrin::trainer {

/// Images with noise on them, each at a level of its own.
struct NoisedImages {
  at::Tensor input;   ///< [N, C, H, W] c_in x, what the network reads
  at::Tensor target;  ///< [N, C, H, W] the F that a perfect network gives
  /// x = alpha x_0 + sigma eps and what it is made of, [N, C, H, W]; undefined where noise_pixels made the others.
  at::Tensor x, x_0, eps;
};

/// @param x_0, eps  [N, C, H, W]   @param levels  [N]
NoisedImages noise_images(PredictionType prediction, double sigma_data, const at::Tensor& x_0, const at::Tensor& eps,
                          std::span<const NoiseLevel> levels);

/// The input and the target of images as a dataset gives them, on the CPU: in one pass from bytes to what the network
/// reads, in channels-last, without x_0, eps and x in between. The same bits as those of noise_images.
/// @param pixels     [N, C, H, W] uint8, contiguous
/// @param mirrored   [N] bool, which to read from right to left; undefined: none
/// @param noise      of eps, as keyed_normal draws it   @param positions  [N]   @param levels  [N]
/// @param type       of the input, float32 or bfloat16; the target is float32
/// @throws std::invalid_argument when the sizes differ
NoisedImages noise_pixels(PredictionType prediction, double sigma_data, const at::Tensor& pixels,
                          const at::Tensor& mirrored, const Stream& noise, std::span<const std::uint64_t> positions,
                          std::span<const NoiseLevel> levels, at::ScalarType type);

}  // namespace perrin::trainer
