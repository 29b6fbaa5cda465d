#pragma once

#include <mpi.h>

#include <memory>

#include "comm/communicator.hpp"

namespace perrin::comm {

class NodeMemory;
class ProgressEngine;

/// Collectives in host memory over MPI, carried on in the background while the caller computes.
/// Its destructor never waits for a peer; unfinished operations fail.
class MpiCommunicator final : public Communicator {
 public:
  using Communicator::all_gather;
  using Communicator::all_reduce;
  using Communicator::all_to_all;
  using Communicator::broadcast;
  using Communicator::reduce_scatter;

  ~MpiCommunicator() override;

  /// A duplicate of the communicator, with a deadline. Collective. MPI must have been started with MPI_THREAD_MULTIPLE.
  /// @throws CommError
  /// @throws std::invalid_argument if piece_bytes is 0 or does not fit MPI's int
  static std::unique_ptr<MpiCommunicator> duplicate_of(MPI_Comm comm, const CommunicatorOptions& options);

  int rank() const noexcept override;
  int size() const noexcept override;
  std::string_view backend() const noexcept override { return "mpi"; }
  bool failed() const noexcept override;

  Work all_reduce(void* data, std::size_t count, DataType type, ReduceOp op, void* compute_stream) override;
  Work reduce_scatter(const void* input, void* output, std::size_t count, DataType type, ReduceOp op,
                      void* compute_stream) override;
  Work all_gather(const void* input, void* output, std::size_t count, DataType type, void* compute_stream) override;
  Work all_to_all(const void* input, void* output, std::size_t count, DataType type, void* compute_stream) override;
  Work broadcast(void* data, std::size_t count, DataType type, int root, void* compute_stream) override;
  Work barrier() override;

 private:
  MpiCommunicator(MPI_Comm comm, const CommunicatorOptions& options, std::unique_ptr<NodeMemory> node);

  std::shared_ptr<ProgressEngine> engine_;
};

}  // namespace perrin::comm
