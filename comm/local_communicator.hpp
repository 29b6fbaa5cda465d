#pragma once

#include "comm/communicator.hpp"

namespace perrin::comm {

/// The communicator of a single process: every operation is a copy at most, done when the call returns.
class LocalCommunicator final : public Communicator {
 public:
  using Communicator::all_gather;
  using Communicator::all_reduce;
  using Communicator::all_to_all;
  using Communicator::broadcast;
  using Communicator::reduce_scatter;

  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  std::string_view backend() const noexcept override { return "local"; }
  bool failed() const noexcept override { return false; }

  Work all_reduce(void* data, std::size_t count, DataType type, ReduceOp op, void* compute_stream) override;
  Work reduce_scatter(const void* input, void* output, std::size_t count, DataType type, ReduceOp op,
                      void* compute_stream) override;
  Work all_gather(const void* input, void* output, std::size_t count, DataType type, void* compute_stream) override;
  Work all_to_all(const void* input, void* output, std::size_t count, DataType type, void* compute_stream) override;
  Work broadcast(void* data, std::size_t count, DataType type, int root, void* compute_stream) override;
  Work barrier() override;
};

}  // namespace perrin::comm
