#pragma once

#include <ATen/core/Tensor.h>

namespace perrin::trainer {

/// The mean over C, H, W of (F - target)^2, in float32 or better.
/// @param F  [N, C, H, W], which may require a gradient   @param target  [N, C, H, W]
/// @return [N], type of `target`
at::Tensor mean_squared_error(const at::Tensor& F, const at::Tensor& target);

}  // namespace perrin::trainer
