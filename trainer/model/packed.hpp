#pragma once

#include <ATen/core/Tensor.h>

#include <array>

namespace perrin::trainer {

/// Three tensors of one shape as one, along dimension 0: without a copy where they follow each other in memory, as q, k
/// and v of an attention do in the arena.
/// @return [3 * size(0), ...]
at::Tensor packed(const std::array<at::Tensor, 3>& parts);

}  // namespace perrin::trainer
