#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstddef>
#include <vector>

#include "comm/communicator.hpp"
#include "trainer/deadlines.hpp"
#include "trainer/optimize/parameter_arena.hpp"

namespace perrin::trainer {

/// Puts together what the ranks own of the arena, bucket by bucket. Where the plan is not sharded every rank has all of
/// it, and nothing is sent. Collective: every rank makes the same calls in the same order.
class ShardGather {
 public:
  /// @param communicator   of the memory in which the arena lives
  /// @param compute_stream on which the weights are updated (a cudaStream_t), null on the CPU
  ShardGather(ParameterArena& arena, comm::Communicator& communicator, void* compute_stream)
      : arena_(arena), communicator_(communicator), compute_stream_(compute_stream) {}

  /// Starts to spread the new weights of a segment of the plan. @throws comm::CommError
  void send_weights(std::size_t segment);
  /// Waits until the weights of all segments sent are whole, and their copy in the compute type too.
  /// @throws comm::CommError
  void finish();
  /// Copies elements [begin, end) of a whole buffer, wherever they live. Every rank asks for what it likes.
  /// @param into [end - begin], on any device
  /// @throws comm::CommError
  void collect(const PersistentBuffer& buffer, std::int64_t begin, std::int64_t end, const at::Tensor& into) const;
  /// The whole of a buffer: [plan().size()]. Of a sharded one it is new memory, the caller's to drop.
  /// @param deadline ranks wait for whoever is still busy with the last one
  /// @throws comm::CommError
  at::Tensor materialise(const PersistentBuffer& buffer, std::chrono::milliseconds deadline = kLongWork) const;

 private:
  comm::Work gather(std::size_t bucket, const float* own, float* whole) const;

  ParameterArena& arena_;
  comm::Communicator& communicator_;
  void* compute_stream_;
  std::vector<comm::Work> works_;
};

}  // namespace perrin::trainer
