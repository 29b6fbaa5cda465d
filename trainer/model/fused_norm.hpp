#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>

#include "trainer/kernels/group_norm.hpp"
#include "trainer/random/stream.hpp"

namespace perrin::trainer {

/// Under which name fused_norm stands in profiles, with x and skip as inputs.
inline constexpr const char* kNormScope = "perrin::fused_norm";

/// Dropout by the factors of keyed_dropout.
struct KeyedDropout {
  Stream stream;
  std::span<const std::uint64_t> positions;  ///< [N] of the samples; read in forward only
  double keep;                               ///< in (0, 1]
};

/// What fused_norm does beside normalising. The small tensors are float32 or of the activations' type, and may require
/// grad; none of the optional ones: undefined.
struct FusedNorm {
  at::Tensor weight, bias;  ///< [C]
  std::int64_t groups;
  double eps;
  Activation activation = Activation::silu;
  at::Tensor add{};             ///< [N, C], added to x before all else; the bias of a convolution can be in it
  at::Tensor scale{}, shift{};  ///< [N, C], both or none
  std::optional<KeyedDropout> dropout{};
};

/// dropout(activation(group_norm(x + add) (1 + scale) + shift)), with a gradient (trainer/kernels/group_norm.hpp).
/// float32 and bfloat16 in channels-last on the CPU by kernels of perrin's own, statistics in float32, which save the
/// inputs, mean and rstd and one bit an element of dropout; everything else by LibTorch's operators.
/// @param x     [N, C1, H, W]
/// @param skip  [N, C - C1, H, W], joined to x along the channels without a copy; undefined: none
/// @return [N, C, H, W] of x's type and format
/// @throws std::invalid_argument when shapes disagree
at::Tensor fused_norm(const at::Tensor& x, const at::Tensor& skip, const FusedNorm& norm);

/// y = fused_norm(x, skip, norm), and the inputs, to be used in its stead where they are needed again (a residual
/// connection): backward then adds their other gradients in the pass that writes those of the norm.
struct FusedNormOutputs {
  at::Tensor y, x, skip;
};
FusedNormOutputs fused_norm_and_inputs(const at::Tensor& x, const at::Tensor& skip, const FusedNorm& norm);

}  // namespace perrin::trainer
