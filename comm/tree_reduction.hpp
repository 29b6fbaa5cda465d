#pragma once

#include <cstddef>
#include <span>

#include "comm/data_type.hpp"

namespace perrin::comm {

/// Reduces one buffer per rank, element by element, in a binary tree that depends on the number of sources alone:
/// neighbours at distance 1, then 2, 4, ... For four sources a sum is (s0 + s1) + (s2 + s3). bfloat16 is accumulated in
/// float32 and rounded once.
/// @param sources  one pointer per rank, in rank order, to count elements each; need not be aligned
/// @param output   count elements; may be one of the sources, else apart from them
void reduce_in_tree(std::span<const std::byte* const> sources, std::byte* output, std::size_t count, DataType type,
                    ReduceOp op);

}  // namespace perrin::comm
