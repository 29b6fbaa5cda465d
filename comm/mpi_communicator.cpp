#include "comm/mpi_communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "comm/comm_error.hpp"
#include "comm/mpi_check.hpp"
#include "comm/node_memory.hpp"
#include "comm/progress_engine.hpp"
#include "comm/schedule.hpp"

namespace perrin::comm {
namespace {

// Each rank's part of the memory of a node is 2 to 3.5 pieces. 1 MB on 2 ranks whose cores share no cache: 0.45 ms with
// 1 MiB, 0.58 ms with 512 KiB.
constexpr std::size_t kNodePieceBytes = std::size_t{1} << 20;

const std::byte* bytes_of(const void* data) { return static_cast<const std::byte*>(data); }
std::byte* bytes_of(void* data) { return static_cast<std::byte*>(data); }

Collective reduction(CollectiveKind kind, DataType type, std::size_t bytes, ReduceOp op) {
  return {.kind = kind, .type = type, .bytes = bytes, .detail = static_cast<std::uint32_t>(op)};
}

}  // namespace

MpiCommunicator::MpiCommunicator(MPI_Comm comm, const CommunicatorOptions& options, std::unique_ptr<NodeMemory> node)
    : engine_(std::make_shared<ProgressEngine>(comm, options, std::move(node))) {}

MpiCommunicator::~MpiCommunicator() { engine_->close(); }

std::unique_ptr<MpiCommunicator> MpiCommunicator::duplicate_of(MPI_Comm comm, const CommunicatorOptions& options) {
  if (options.piece_bytes == 0 || options.piece_bytes > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    throw std::invalid_argument(
        fmt::format("piece_bytes is {}; it must be in [1, {}]", options.piece_bytes, std::numeric_limits<int>::max()));
  }
  int rank = 0;
  require_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank", rank);
  // On the heap: when the deadline passes, MPI still holds the address and may write there later, so it is left to it.
  auto duplicate = std::make_unique<MPI_Comm>(MPI_COMM_NULL);
  MPI_Request request = MPI_REQUEST_NULL;
  require_mpi(MPI_Comm_idup(comm, duplicate.get(), &request), "MPI_Comm_idup", rank);
  try {
    wait_within(options.deadline, request, "a communicator was not duplicated", rank);
  } catch (...) {
    (void)duplicate.release();
    throw;
  }
  std::unique_ptr<NodeMemory> node;
  if (options.share_node_memory) {
    const std::size_t piece_bytes = std::min(options.piece_bytes, kNodePieceBytes);
    node = NodeMemory::shared_by(*duplicate, piece_bytes, options.deadline);
  }
  return std::unique_ptr<MpiCommunicator>(new MpiCommunicator(*duplicate, options, std::move(node)));
}

int MpiCommunicator::rank() const noexcept { return engine_->group().rank; }
int MpiCommunicator::size() const noexcept { return engine_->group().size; }
bool MpiCommunicator::failed() const noexcept { return engine_->failed(); }

Work MpiCommunicator::all_reduce(void* data, std::size_t count, DataType type, ReduceOp op, void* /*compute_stream*/) {
  require_buffer(data, count);
  return Work(engine_->submit(reduction(CollectiveKind::all_reduce, type, count * size_of(type), op),
                              all_reduce_schedule(engine_->group(), bytes_of(data), count, type, op)));
}

Work MpiCommunicator::reduce_scatter(const void* input, void* output, std::size_t count, DataType type, ReduceOp op,
                                     void* /*compute_stream*/) {
  require_buffer(input, count);
  require_buffer(output, count);
  const std::size_t bytes = count * size_of(type);
  require_own_part(input, output, bytes);
  return Work(
      engine_->submit(reduction(CollectiveKind::reduce_scatter, type, static_cast<std::size_t>(size()) * bytes, op),
                      reduce_scatter_schedule(engine_->group(), bytes_of(input), bytes_of(output), count, type, op)));
}

Work MpiCommunicator::all_gather(const void* input, void* output, std::size_t count, DataType type,
                                 void* /*compute_stream*/) {
  require_buffer(input, count);
  require_buffer(output, count);
  const std::size_t bytes = count * size_of(type);
  require_own_part(output, input, bytes);
  return Work(engine_->submit({CollectiveKind::all_gather, type, static_cast<std::size_t>(size()) * bytes},
                              all_gather_schedule(engine_->group(), bytes_of(input), bytes_of(output), bytes)));
}

Work MpiCommunicator::all_to_all(const void* input, void* output, std::size_t count, DataType type,
                                 void* /*compute_stream*/) {
  require_buffer(input, count);
  require_buffer(output, count);
  const std::size_t bytes = count * size_of(type);
  require_apart(input, output, static_cast<std::size_t>(size()) * bytes);
  return Work(engine_->submit({CollectiveKind::all_to_all, type, static_cast<std::size_t>(size()) * bytes},
                              all_to_all_schedule(engine_->group(), bytes_of(input), bytes_of(output), bytes)));
}

Work MpiCommunicator::broadcast(void* data, std::size_t count, DataType type, int root, void* /*compute_stream*/) {
  require_buffer(data, count);
  require_root(root);
  const std::size_t bytes = count * size_of(type);
  return Work(engine_->submit({CollectiveKind::broadcast, type, bytes, static_cast<std::uint32_t>(root)},
                              broadcast_schedule(engine_->group(), bytes_of(data), bytes, root)));
}

Work MpiCommunicator::barrier() { return Work(engine_->submit({}, barrier_schedule(engine_->group()))); }

}  // namespace perrin::comm
