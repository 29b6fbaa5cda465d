#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/interchange/png.hpp"

namespace perrin::trainer {

/// Lays images out row by row with two black pixels between and around them; places without an image stay black.
/// @param images  [N, C, H, W] uint8 on the CPU, C = 1 or 3, N <= rows * columns
/// @throws std::invalid_argument otherwise
Picture make_grid(const at::Tensor& images, std::int64_t rows, std::int64_t columns);

/// One image without a border. @param image  [C, H, W], else as above
Picture make_picture(const at::Tensor& image);

}  // namespace perrin::trainer
