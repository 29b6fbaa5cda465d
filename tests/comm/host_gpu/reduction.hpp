// Element-wise reduction of what the ranks have sent, in rank order, rounded at every step as a ring rounds at every
// hop.
#pragma once

#include <nccl.h>

#include <cstddef>
#include <vector>

#include "tests/comm/host_gpu/exchange.hpp"

namespace perrin::host_gpu {

/// Bytes of an element; 0 for a type that comm/ does not use.
std::size_t size_of(ncclDataType_t type);

/// True for the reductions that comm/ uses.
bool known(ncclRedOp_t op);

/// @param parts  one for each rank, count elements each
void reduce(const std::vector<Bytes>& parts, void* output, std::size_t count, ncclDataType_t type, ncclRedOp_t op);

}  // namespace perrin::host_gpu
