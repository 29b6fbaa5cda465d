#include "comm/checked_communicator.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>
#include <vector>

#include "comm/comm_error.hpp"

namespace perrin::comm {
namespace {

/// A Collective as it travels.
using Words = std::array<std::int64_t, 4>;

Words words_of(const Collective& collective) {
  return {static_cast<std::int64_t>(collective.kind), static_cast<std::int64_t>(collective.type),
          static_cast<std::int64_t>(collective.bytes), static_cast<std::int64_t>(collective.detail)};
}

Collective collective_of(const std::int64_t* words) {
  return {static_cast<CollectiveKind>(words[0]), static_cast<DataType>(words[1]), static_cast<std::uint64_t>(words[2]),
          static_cast<std::uint32_t>(words[3])};
}

}  // namespace

CheckedCommunicator::CheckedCommunicator(std::unique_ptr<Communicator> checked, std::unique_ptr<Communicator> checks)
    : checked_(std::move(checked)), checks_(std::move(checks)) {}

void CheckedCommunicator::require_same(const Collective& collective) {
  ++sequence_;
  const Words own = words_of(collective);
  std::vector<std::int64_t> all(own.size() * static_cast<std::size_t>(size()));
  checks_->all_gather(std::span<const std::int64_t>(own), std::span<std::int64_t>(all)).wait();
  const Collective first = collective_of(all.data());
  for (std::size_t r = 1; r < static_cast<std::size_t>(size()); ++r) {
    const Collective other = collective_of(&all[r * own.size()]);
    if (other == first) continue;
    throw CommError(
        {.operation = std::string(name_of(collective.kind)),
         .sequence = sequence_,
         .bytes = collective.bytes,
         .rank = rank()},
        fmt::format("the ranks disagree: rank 0 would submit {}, rank {} {}", describe(first), r, describe(other)));
  }
}

Work CheckedCommunicator::all_reduce(void* data, std::size_t count, DataType type, ReduceOp op, void* compute_stream) {
  require_same({CollectiveKind::all_reduce, type, count * size_of(type), static_cast<std::uint32_t>(op)});
  return checked_->all_reduce(data, count, type, op, compute_stream);
}

Work CheckedCommunicator::reduce_scatter(const void* input, void* output, std::size_t count, DataType type, ReduceOp op,
                                         void* compute_stream) {
  const std::size_t bytes = static_cast<std::size_t>(size()) * count * size_of(type);
  require_same({CollectiveKind::reduce_scatter, type, bytes, static_cast<std::uint32_t>(op)});
  return checked_->reduce_scatter(input, output, count, type, op, compute_stream);
}

Work CheckedCommunicator::all_gather(const void* input, void* output, std::size_t count, DataType type,
                                     void* compute_stream) {
  require_same({CollectiveKind::all_gather, type, static_cast<std::size_t>(size()) * count * size_of(type)});
  return checked_->all_gather(input, output, count, type, compute_stream);
}

Work CheckedCommunicator::all_to_all(const void* input, void* output, std::size_t count, DataType type,
                                     void* compute_stream) {
  require_same({CollectiveKind::all_to_all, type, static_cast<std::size_t>(size()) * count * size_of(type)});
  return checked_->all_to_all(input, output, count, type, compute_stream);
}

Work CheckedCommunicator::broadcast(void* data, std::size_t count, DataType type, int root, void* compute_stream) {
  require_same({CollectiveKind::broadcast, type, count * size_of(type), static_cast<std::uint32_t>(root)});
  return checked_->broadcast(data, count, type, root, compute_stream);
}

Work CheckedCommunicator::barrier() {
  require_same({});
  return checked_->barrier();
}

}  // namespace perrin::comm
