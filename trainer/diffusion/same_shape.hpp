#pragma once

#include <ATen/core/Tensor.h>

#include <stdexcept>

namespace perrin::trainer {

/// @throws std::invalid_argument naming both shapes when tensors that belong to one batch differ
inline void require_same_shape(const at::Tensor& one, const at::Tensor& other) {
  if (one.sizes() != other.sizes())
    throw std::invalid_argument("tensors of one batch differ in shape: " + c10::str(one.sizes()) + " and " +
                                c10::str(other.sizes()));
}

}  // namespace perrin::trainer
