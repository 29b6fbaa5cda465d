#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <span>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"

namespace perrin::trainer {

/// Bytes of images as [n, C, H, W] uint8; on the CPU a view of the caller's.
at::Tensor to_pixel_batch(std::span<const std::uint8_t> pixels, const data::ImageShape& shape, at::Device device);

/// Pixels as the network sees them: uint8 [n, C, H, W] to float32 in [-1, 1], x / 127.5 - 1 (Ho et al. 2020,
/// section 3.3).
at::Tensor to_model_range(const at::Tensor& pixels);

/// The same of bytes.
at::Tensor to_model_range(std::span<const std::uint8_t> pixels, const data::ImageShape& shape, at::Device device);

/// Labels as the network takes them: [N] int64 on `device`, -1: none; undefined for an unconditional
/// model.
at::Tensor to_labels(std::span<const std::int32_t> labels, const ModelConfig& model, at::Device device);

/// Back to pixels: round((x + 1) * 127.5), clamped to [0, 255]; uint8, on the CPU. Rounds where OpenAI's code
/// truncates.
at::Tensor to_pixels(const at::Tensor& images);

}  // namespace perrin::trainer
