#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "trainer/checkpoint/state_parts.hpp"
#include "trainer/optimize/parameter_arena.hpp"
#include "trainer/optimize/shard_gather.hpp"

namespace perrin::trainer {

/// A copy in host memory of one part of the state, as it was at one step: what a thread writes while training goes on.
/// Holds its memory, pinned where the arena is on a GPU, from the beginning.
class StagedState {
 public:
  StagedState(const ParameterArena& arena, const StatePart& part);

  /// Copies the part of a buffer. Collective where the buffer is sharded, over its ranks.
  /// @throws comm::CommError
  void stage(const PersistentBuffer& buffer, const ShardGather& shards);

  /// What was staged of a buffer, in logical shapes, by parameter name; shares its memory.
  std::map<std::string, at::Tensor> tensors(const std::string& buffer) const;
  /// The first parameter of a staged buffer that holds a number that is not finite; empty: there is none.
  std::string first_non_finite(const std::string& buffer) const;

 private:
  const ParameterLayout& layout_;
  StatePart part_;
  std::map<std::string, at::Tensor> copies_;  // flat, on the host
};

}  // namespace perrin::trainer
