#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "comm/communicator.hpp"

namespace perrin::comm {

/// Compares what the ranks are about to submit before they submit it: kind, type, bytes, reduction or root. Costs a
/// small collective, waited for, before each one: to find why a run hangs or computes nonsense, not to train with.
class CheckedCommunicator final : public Communicator {
 public:
  using Communicator::all_gather;
  using Communicator::all_reduce;
  using Communicator::all_to_all;
  using Communicator::broadcast;
  using Communicator::reduce_scatter;

  /// @param checks  of the same ranks in host memory, for this use alone
  CheckedCommunicator(std::unique_ptr<Communicator> checked, std::unique_ptr<Communicator> checks);

  int rank() const noexcept override { return checked_->rank(); }
  int size() const noexcept override { return checked_->size(); }
  std::string_view backend() const noexcept override { return checked_->backend(); }
  bool failed() const noexcept override { return checked_->failed() || checks_->failed(); }

  /// All as the communicator beneath; besides, @throws CommError on every rank, naming the first two ranks that differ
  /// and what each would have submitted. Nothing is under way then.
  Work all_reduce(void* data, std::size_t count, DataType type, ReduceOp op, void* compute_stream) override;
  Work reduce_scatter(const void* input, void* output, std::size_t count, DataType type, ReduceOp op,
                      void* compute_stream) override;
  Work all_gather(const void* input, void* output, std::size_t count, DataType type, void* compute_stream) override;
  Work all_to_all(const void* input, void* output, std::size_t count, DataType type, void* compute_stream) override;
  Work broadcast(void* data, std::size_t count, DataType type, int root, void* compute_stream) override;
  Work barrier() override;

 private:
  void require_same(const Collective& collective);

  std::unique_ptr<Communicator> checked_, checks_;
  std::uint64_t sequence_ = 0;
};

}  // namespace perrin::comm
