#pragma once

#include <ATen/core/Tensor.h>

namespace perrin::trainer {

/// A 3x3 convolution with padding 1 of x doubled by nearest neighbour, as one transposed convolution of stride 2: for
/// each place and pair of channels 4 products where that would make 9, and the doubled image never exists.
/// @param x  [N, in, H, W]   @param weight  [out, in, 3, 3]   @param bias  [out]
/// @return [N, out, 2 H, 2 W]
at::Tensor convolution_of_doubled(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace perrin::trainer
