#pragma once

#include <cstdint>

#include "trainer/kernels/bfloat16.hpp"

namespace perrin::trainer {

/// Sum of (F - target)^2 of one image, in double and in an order that no instruction set changes.
/// @param F  [count], float32 or bfloat16
template <typename T>
double squared_error(const T* F, const float* target, std::int64_t count);

/// scale (F - target), in float32 and then rounded: the gradient for F of scale / 2 times that sum.
template <typename T>
void squared_error_gradient(const T* F, const float* target, std::int64_t count, float scale, T* gradient);

}  // namespace perrin::trainer
