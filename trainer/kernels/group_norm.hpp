#pragma once

#include <cstddef>
#include <cstdint>

#include "trainer/kernels/bfloat16.hpp"
#include "trainer/kernels/instruction_set.hpp"

namespace perrin::trainer {

enum class Activation { none, silu };

/// Group normalisation with what stands around it in a residual block, in one operator:
///
///   y = dropout(activation(u)),  u = ((x + add - mean) rstd gamma + beta) (1 + scale) + shift
///
/// with mean and 1 / sqrt(variance + eps) over the channels of a group and all pixels of one sample. Sources: Wu & He
/// 2018; Ho et al. 2020 (add); Nichol & Dhariwal 2021, section 3 (scale and shift).
///
/// Tensors are channels-last, [N, pixels, channels], float32 or bfloat16; all else is float32. x may be two tensors
/// that count as one, joined along the channels; a group may straddle the border. The caller owns all memory; ranges of
/// samples are independent, and the bits depend neither on their split nor on the instruction set.
struct GroupNormShape {
  std::int64_t pixels, channels, groups;
  std::int64_t first_channels;  ///< of the first tensor; `channels` where there is only one
};

struct GroupNormParameters {
  const float* gamma;            ///< [channels]
  const float* beta;             ///< [channels]
  const float* add = nullptr;    ///< [N, channels], or none
  const float* scale = nullptr;  ///< [N, channels], or none; then shift too
  const float* shift = nullptr;
  const std::uint16_t* kept = nullptr;  ///< as fill_dropout_mask gives it for each sample; none: no dropout
  float keep_factor = 1;                ///< 1 / probability of being kept
  Activation activation = Activation::silu;
};

/// Samples [begin, end) of the batch, and scratch memory that no other thread uses meanwhile.
struct GroupNormRange {
  std::int64_t begin, end;
  float* scratch;  ///< as many as group_norm_scratch says
};

template <typename T>
struct GroupNormForward {
  const T* x[2];  ///< [N, pixels, first_channels] and [N, pixels, channels - first_channels]
  T* y;           ///< [N, pixels, channels]
  float* mean;    ///< [N, groups], of x + add
  float* rstd;    ///< [N, groups]
  float eps;
};

template <typename T>
struct GroupNormBackward {
  const T* dy;    ///< [N, pixels, channels]
  const T* x[2];  ///< as in forward
  const float* mean;
  const float* rstd;
  const T* residual[2];  ///< shaped like x, or none: another gradient of x, which is added
  T* dx[2];              ///< shaped like x; overlaps no other tensor
  float* du_sum;         ///< [N, channels], over pixels of du
  float* du_x_sum;       ///< [N, channels], over pixels of du times the normalised x
  float* dadd;           ///< [N, channels], or none
};

/// Elements of scratch that group_norm_forward and group_norm_backward need for each thread.
std::size_t group_norm_scratch(const GroupNormShape& shape);

void group_norm_forward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                        const GroupNormForward<float>& tensors, const GroupNormRange& range,
                        InstructionSet set = best_instruction_set());
void group_norm_forward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                        const GroupNormForward<BFloat16>& tensors, const GroupNormRange& range,
                        InstructionSet set = best_instruction_set());

/// The gradient of x and of add, and the sums from which group_norm_parameter_gradients makes the others.
void group_norm_backward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                         const GroupNormBackward<float>& tensors, const GroupNormRange& range,
                         InstructionSet set = best_instruction_set());
void group_norm_backward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                         const GroupNormBackward<BFloat16>& tensors, const GroupNormRange& range,
                         InstructionSet set = best_instruction_set());

/// Gradients of the parameters, all float32.
struct GroupNormParameterGradients {
  float* dgamma;            ///< [channels]
  float* dbeta;             ///< [channels]
  float* dscale = nullptr;  ///< [N, channels] where there is a scale; that of shift is du_sum
};

/// Sums over the samples in their order, so that the bits do not depend on the threads of group_norm_backward.
void group_norm_parameter_gradients(const GroupNormParameters& parameters, std::int64_t samples, std::int64_t channels,
                                    const float* du_sum, const float* du_x_sum, const GroupNormParameterGradients& to);

}  // namespace perrin::trainer
