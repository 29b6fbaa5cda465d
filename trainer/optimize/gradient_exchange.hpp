#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <vector>

#include "comm/communicator.hpp"
#include "trainer/config.hpp"
#include "trainer/optimize/parameter_arena.hpp"

namespace perrin::trainer {

/// Sums buckets of gradients over the ranks: all of a bucket on every rank, or where the plan is sharded (ZeRO-1) each
/// rank's part on that rank.
///
/// Fast, in fp32: one all-reduce or reduce-scatter of the communicator. Reproducible or in bfloat16: the ranks exchange
/// parts (all-to-all), each adds those of its own in float32 in the binary tree of neighbours 1, 2, 4, ... apart, and
/// an all-gather spreads the sums unless they are sharded. The same on every backend. In bfloat16 a gradient is rounded
/// once by the rank that has it, never on the way, and the sum once more where it is spread.
class GradientExchange {
 public:
  /// @param compute_stream on which the gradients are made (a cudaStream_t), null on the CPU
  /// @throws std::invalid_argument if the communicator has other ranks than the arena's plan
  GradientExchange(ParameterArena& arena, comm::Communicator& communicator, void* compute_stream, Reduction reduction,
                   Wire wire);

  /// Starts the sum of a bucket of arena.gradients(); buckets go in the same order on all ranks. @throws
  /// comm::CommError
  void send(std::size_t bucket);
  /// Waits until every bucket sent holds its sum. @throws comm::CommError
  void finish();

 private:
  /// What a bucket needs where parts are exchanged; kept from step to step.
  struct Parts {
    at::Tensor rounded;   // [bucket], bfloat16: what is sent, then the sums of all parts; only on that wire
    at::Tensor received;  // [ranks, part]: every rank's gradients of the part that this rank sums
  };
  struct Sent {
    std::size_t bucket;
    comm::Work work;
  };

  at::Tensor gradients_of(std::size_t bucket) const;
  comm::Work reduce(std::size_t bucket);
  comm::Work exchange(std::size_t bucket);
  /// Adds what was received into this rank's part of the bucket.
  void add_parts(std::size_t bucket);
  comm::Work spread(std::size_t bucket);

  ParameterArena& arena_;
  comm::Communicator& communicator_;
  void* compute_stream_;
  Wire wire_;
  bool in_parts_;
  std::vector<Parts> parts_;  // per bucket
  std::vector<Sent> sent_;
};

}  // namespace perrin::trainer
