#pragma once

#include <ATen/core/Tensor.h>

namespace perrin::trainer {

/// L_simple of each sample: the mean over C, H, W of (eps_hat - eps)^2. Source: Ho et al. 2020, eq. 14.
/// Divide its sum by the global batch, so that gradients of slices add up whatever their sizes.
/// @param eps_hat, eps  [N, C, H, W]   @return [N]
/// @throws std::invalid_argument when the shapes differ
at::Tensor epsilon_loss_per_sample(const at::Tensor& eps_hat, const at::Tensor& eps);

}  // namespace perrin::trainer
