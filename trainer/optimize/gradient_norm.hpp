#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/communicator.hpp"

namespace perrin::trainer {

class ParameterArena;

/// Elements that make one term of the norm: 16 KiB, which stay in the first-level cache.
inline constexpr std::int64_t kNormBlock = 4096;

/// L2 norm of a flat fp32 buffer in fp64. The sum runs over fixed blocks and adds them in a fixed order, so that the
/// number of threads does not show in its bits. A non-finite entry makes it non-finite.
/// @param flat [n], float32, contiguous; n a multiple of kNormBlock
double gradient_norm(const at::Tensor& flat);

/// That of the arena's reduced gradients. Where they are sharded each rank sums the blocks that it owns and the sums
/// are gathered, so that every rank has the bits that one rank alone would have. Collective then.
/// @throws comm::CommError
double gradient_norm(const ParameterArena& arena, comm::Communicator& control);

}  // namespace perrin::trainer
