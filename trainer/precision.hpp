#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <string>

#include "trainer/config.hpp"

namespace perrin::trainer {

/// The type in which convolutions and matrix products compute: float32 or bfloat16. Automatic: bfloat16 where the
/// processor multiplies it by instructions of its own (AVX512-BF16), or the GPU does (compute capability 8 and later).
at::ScalarType compute_type(Precision precision, at::Device device);

/// Whether bfloat16 is faster than float32 there, as compute_type decides it.
bool multiplies_bfloat16(at::Device device);

/// A compute type as people read it, with the reason where the choice was automatic: "fp32 (auto: cpu has no bfloat16
/// instructions)".
std::string chosen_type(Precision asked, at::ScalarType chosen, at::Device device);

/// Whether a parameter of so many dimensions takes part in matrix products and so is needed in the compute type: the
/// weights of convolutions, linear layers and embeddings. Biases, scales and shifts stay float32.
inline bool is_matrix(std::size_t dimensions) { return dimensions >= 2; }

}  // namespace perrin::trainer
