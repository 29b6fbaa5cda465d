#include "comm/nccl_communicator.hpp"

#include <fmt/format.h>
#include <nccl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "comm/back_off.hpp"
#include "comm/comm_error.hpp"
#include "comm/cuda_handles.hpp"
#include "comm/exit_timer.hpp"
#include "comm/world.hpp"

namespace perrin::comm {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// ncclCommAbort itself has been seen to hang (NVIDIA/nccl#863, #1013): after this long the process leaves without it.
constexpr milliseconds kAbortGrace{5'000};
constexpr microseconds kPollSpin{50};
constexpr microseconds kPollSleep{100};
constexpr milliseconds kLongestDeadline{std::chrono::hours(24 * 365)};

ncclDataType_t nccl_type(DataType type) {
  switch (type) {
    case DataType::float32:
      return ncclFloat32;
    case DataType::bfloat16:
      return ncclBfloat16;
    case DataType::float64:
      return ncclFloat64;
    case DataType::int64:
      return ncclInt64;
    case DataType::uint8:
      return ncclUint8;
  }
  return ncclNumTypes;
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return ncclSum;
    case ReduceOp::max:
      return ncclMax;
    case ReduceOp::min:
      return ncclMin;
  }
  return ncclNumOps;
}

bool accepted(ncclResult_t code) { return code == ncclSuccess || code == ncclInProgress; }

/// One non-blocking NCCL communicator with its stream. Operations hold it, so that it outlives them.
class Channel {
 public:
  /// The device must be current.
  Channel(int rank, int size, int device, const ncclUniqueId& id, const CommunicatorOptions& options)
      : rank_(rank), size_(size), device_(device), options_(options), barrier_(1) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const OperationId start{.operation = "start", .rank = rank};
    try {
      require_accepted(ncclCommInitRankConfig(&comm_, size, id, rank, &config), "ncclCommInitRankConfig", start);
      settle(start);
    } catch (const std::exception& error) {
      abort(error.what());
      throw;
    }
  }
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  ~Channel() { close(); }

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  const CommunicatorOptions& options() const noexcept { return options_; }
  ncclComm_t comm() const noexcept { return comm_; }
  cudaStream_t stream() const noexcept { return stream_.get(); }
  void* barrier_byte() const noexcept { return barrier_.get(); }
  bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }

  /// Enqueues a collective behind what the compute stream holds now.
  /// @return the event of its end
  CudaEvent enqueue(const OperationId& id, cudaStream_t compute_stream, const std::function<ncclResult_t()>& launch) {
    require_healthy(id);
    const DeviceGuard guard(device_);
    const CudaEvent fork;
    CudaEvent end;
    require_cuda(cudaEventRecord(fork.get(), compute_stream), "cudaEventRecord");
    require_cuda(cudaStreamWaitEvent(stream_.get(), fork.get(), 0), "cudaStreamWaitEvent");
    try {
      {
        const std::lock_guard lock(comm_mutex_);
        if (comm_ == nullptr) throw CommError(id, "this communicator has failed");
        require_accepted(launch(), "launch", id);
      }
      settle(id);  // before that the kernel may not be on the stream yet, and the event would come too early
      require_cuda(cudaEventRecord(end.get(), stream_.get()), "cudaEventRecord");
    } catch (const std::exception& error) {
      abort(error.what());
      throw;
    }
    return end;
  }

  /// @throws CommError if this communicator has failed, or NCCL reports an asynchronous error, which aborts it
  void require_healthy(const OperationId& id) {
    if (failed()) throw CommError(id, "this communicator has failed before: " + failure());
    const auto [state, text] = poll();
    if (accepted(state)) return;
    const std::string reason = fmt::format("NCCL reports: {} ({})", ncclGetErrorString(state), text);
    abort(reason);
    throw CommError(id, reason);
  }

  /// Looks for an asynchronous error without throwing; one that it finds fails the communicator.
  bool healthy() noexcept {
    try {
      require_healthy({});
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }

  /// Ends what is under way; after it nothing touches the callers' buffers. Leaves the process if NCCL or the stream
  /// does not come to its end.
  void abort(const std::string& reason) noexcept {
    const ExitTimer timer(kAbortGrace, kCommExitCode, "ncclCommAbort of a failed communicator");
    const std::lock_guard lock(comm_mutex_);
    if (failure_.empty()) failure_ = reason;
    failed_.store(true, std::memory_order_release);
    if (comm_ == nullptr) return;
    ncclCommAbort(std::exchange(comm_, nullptr));
    BackOff back_off(kPollSpin, kPollSleep);
    while (cudaStreamQuery(stream_.get()) == cudaErrorNotReady) back_off.pause();
  }

 private:
  struct State {
    ncclResult_t code;
    std::string text;  ///< NCCL's own, for an error
  };

  /// What NCCL says of the communicator now. Another thread may abort it, hence the lock.
  State poll() {
    const std::lock_guard lock(comm_mutex_);
    if (comm_ == nullptr) return {ncclInvalidUsage, failure_};
    ncclResult_t state = ncclSuccess;
    const ncclResult_t code = ncclCommGetAsyncError(comm_, &state);
    if (code != ncclSuccess) state = code;
    return {state, accepted(state) ? "" : ncclGetLastError(comm_)};
  }

  std::string failure() {
    const std::lock_guard lock(comm_mutex_);
    return failure_;
  }

  void require_accepted(ncclResult_t code, const char* call, const OperationId& id) const {
    if (accepted(code)) return;
    throw CommError(id, fmt::format("{} failed: {} ({})", call, ncclGetErrorString(code), ncclGetLastError(comm_)));
  }

  /// Waits until NCCL has taken the last call in.
  void settle(const OperationId& id) {
    const auto until = Clock::now() + std::min(options_.deadline, kLongestDeadline);
    BackOff back_off(kPollSpin, kPollSleep);
    for (;;) {
      const auto [state, text] = poll();
      if (state == ncclSuccess) return;
      if (state != ncclInProgress)
        throw CommError(id, fmt::format("NCCL reports: {} ({})", ncclGetErrorString(state), text));
      if (Clock::now() > until) {
        throw CommError(
            id,
            fmt::format(
                "NCCL is still in progress after {} ms: a rank is missing, or the network between the nodes is closed "
                "(NCCL_DEBUG=INFO tells more)",
                options_.deadline.count()));
      }
      back_off.pause();
    }
  }

  void close() noexcept {
    if (comm_ == nullptr) return;
    if (std::uncaught_exceptions() > 0) return abort("destroyed while an exception unwinds");
    try {
      const OperationId end{.operation = "end", .rank = rank_};
      require_accepted(ncclCommFinalize(comm_), "ncclCommFinalize", end);
      settle(end);
      const ExitTimer timer(kAbortGrace, kCommExitCode, "ncclCommDestroy");
      ncclCommDestroy(std::exchange(comm_, nullptr));
    } catch (const std::exception& error) {
      abort(error.what());
    }
  }

  int rank_;
  int size_;
  int device_;
  CommunicatorOptions options_;
  CudaStream stream_;
  DeviceBuffer barrier_;
  ncclComm_t comm_ = nullptr;
  std::atomic<bool> failed_{false};
  std::mutex comm_mutex_;  // comm_ against an abort from another thread, and failure_
  std::string failure_;    // why failed_
};

/// One operation in the flight recorder. The device tells nobody when it is done: it is recorded as completed when the
/// host sees that, and as failed when the record goes before.
class FlightRecord {
 public:
  FlightRecord(FlightTrack track, std::uint64_t sequence, const Collective& collective)
      : track_(std::move(track)), sequence_(sequence), ticket_(track_.enqueued(sequence, collective)) {}
  FlightRecord(FlightRecord&& other) noexcept
      : track_(std::move(other.track_)),
        sequence_(other.sequence_),
        ticket_(other.ticket_),
        open_(std::exchange(other.open_, false)) {}
  FlightRecord& operator=(FlightRecord&&) = delete;
  ~FlightRecord() {
    if (open_) track_.failed(sequence_, ticket_);
  }

  void started() noexcept { track_.started(ticket_); }
  void completed() noexcept {
    if (std::exchange(open_, false)) track_.completed(sequence_, ticket_);
  }

 private:
  FlightTrack track_;
  std::uint64_t sequence_, ticket_;
  bool open_ = true;
};

class DeviceOperation final : public PendingOperation {
 public:
  DeviceOperation(std::shared_ptr<Channel> channel, OperationId id, CudaEvent end, FlightRecord record)
      : channel_(std::move(channel)), id_(std::move(id)), end_(std::move(end)), record_(std::move(record)) {}

  bool done() override {
    const cudaError_t code = cudaEventQuery(end_.get());
    const bool healthy = channel_->healthy();
    if (code == cudaSuccess && healthy) record_.completed();
    return code != cudaErrorNotReady || !healthy;
  }

  void wait(milliseconds deadline) override {
    const auto until = Clock::now() + std::min(deadline, kLongestDeadline);
    BackOff back_off(kPollSpin, kPollSleep);
    for (;;) {
      const cudaError_t code = cudaEventQuery(end_.get());
      // After the query: an abort lets the stream go on, which makes an unfinished operation look done.
      channel_->require_healthy(id_);
      if (code == cudaSuccess) return record_.completed();
      if (code != cudaErrorNotReady) require_cuda(code, "cudaEventQuery");
      if (Clock::now() > until)
        throw CommError(id_, fmt::format("not done within {} ms: a rank is late or gone", deadline.count()));
      back_off.pause();
    }
  }

  void join(void* compute_stream) override {
    channel_->require_healthy(id_);
    require_cuda(cudaStreamWaitEvent(static_cast<cudaStream_t>(compute_stream), end_.get(), 0), "cudaStreamWaitEvent");
  }

  void abandon() noexcept override {
    if (!done()) channel_->abort("an operation was withdrawn");
  }

  milliseconds default_deadline() const noexcept override { return channel_->options().deadline; }

 private:
  std::shared_ptr<Channel> channel_;
  OperationId id_;
  CudaEvent end_;
  FlightRecord record_;
};

class NcclCommunicator final : public Communicator {
 public:
  explicit NcclCommunicator(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}

  int rank() const noexcept override { return channel_->rank(); }
  int size() const noexcept override { return channel_->size(); }
  std::string_view backend() const noexcept override { return "nccl"; }
  bool failed() const noexcept override { return channel_->failed(); }

  Work all_reduce(void* data, std::size_t count, DataType type, ReduceOp op, void* compute_stream) override {
    require_buffer(data, count);
    return submit(
        {CollectiveKind::all_reduce, type, count * size_of(type), static_cast<std::uint32_t>(op)}, compute_stream, [&] {
          return ncclAllReduce(data, data, count, nccl_type(type), nccl_op(op), channel_->comm(), channel_->stream());
        });
  }

  Work reduce_scatter(const void* input, void* output, std::size_t count, DataType type, ReduceOp op,
                      void* compute_stream) override {
    require_buffer(input, count);
    require_buffer(output, count);
    require_own_part(input, output, count * size_of(type));
    return submit(
        {CollectiveKind::reduce_scatter, type, ranks() * count * size_of(type), static_cast<std::uint32_t>(op)},
        compute_stream, [&] {
          return ncclReduceScatter(input, output, count, nccl_type(type), nccl_op(op), channel_->comm(),
                                   channel_->stream());
        });
  }

  Work all_gather(const void* input, void* output, std::size_t count, DataType type, void* compute_stream) override {
    require_buffer(input, count);
    require_buffer(output, count);
    require_own_part(output, input, count * size_of(type));
    return submit({CollectiveKind::all_gather, type, ranks() * count * size_of(type), 0}, compute_stream, [&] {
      return ncclAllGather(input, output, count, nccl_type(type), channel_->comm(), channel_->stream());
    });
  }

  Work all_to_all(const void* input, void* output, std::size_t count, DataType type, void* compute_stream) override {
    require_buffer(input, count);
    require_buffer(output, count);
    const std::size_t bytes = count * size_of(type);
    require_apart(input, output, ranks() * bytes);
    return submit({CollectiveKind::all_to_all, type, ranks() * bytes, 0}, compute_stream, [&] {
      ncclResult_t code = ncclGroupStart();
      for (std::size_t r = 0; r < ranks() && accepted(code); ++r) {
        const int peer = static_cast<int>(r);
        code = ncclSend(static_cast<const std::byte*>(input) + r * bytes, count, nccl_type(type), peer,
                        channel_->comm(), channel_->stream());
        if (!accepted(code)) break;
        code = ncclRecv(static_cast<std::byte*>(output) + r * bytes, count, nccl_type(type), peer, channel_->comm(),
                        channel_->stream());
      }
      const ncclResult_t end = ncclGroupEnd();  // closes the group in any case
      return accepted(code) ? end : code;
    });
  }

  Work broadcast(void* data, std::size_t count, DataType type, int root, void* compute_stream) override {
    require_buffer(data, count);
    require_root(root);
    return submit(
        {CollectiveKind::broadcast, type, count * size_of(type), static_cast<std::uint32_t>(root)}, compute_stream,
        [&] { return ncclBroadcast(data, data, count, nccl_type(type), root, channel_->comm(), channel_->stream()); });
  }

  Work barrier() override {
    return submit({.kind = CollectiveKind::barrier}, nullptr, [&] {
      return ncclAllReduce(channel_->barrier_byte(), channel_->barrier_byte(), 1, ncclUint8, ncclMax, channel_->comm(),
                           channel_->stream());
    });
  }

 private:
  std::size_t ranks() const { return static_cast<std::size_t>(size()); }

  Work submit(const Collective& collective, void* compute_stream, const std::function<ncclResult_t()>& launch) {
    OperationId id{.operation = std::string(name_of(collective.kind)),
                   .sequence = ++sequence_,
                   .bytes = collective.bytes,
                   .rank = rank()};
    FlightRecord record(channel_->options().flight, id.sequence, collective);
    CudaEvent end = channel_->enqueue(id, static_cast<cudaStream_t>(compute_stream), launch);
    record.started();
    return Work(std::make_shared<DeviceOperation>(channel_, std::move(id), std::move(end), std::move(record)));
  }

  std::shared_ptr<Channel> channel_;
  std::uint64_t sequence_ = 0;
};

/// The root's id on all ranks; a root that fails says so to all.
ncclUniqueId agree_on_id(Communicator& control) {
  std::array<std::uint8_t, 1 + sizeof(ncclUniqueId)> message{};  // a flag, then the id
  ncclUniqueId id{};
  if (control.rank() == 0 && ncclGetUniqueId(&id) == ncclSuccess) {
    message[0] = 1;
    std::memcpy(&message[1], &id, sizeof(id));
  }
  control.broadcast(std::span<std::uint8_t>(message), /*root=*/0).wait();
  if (message[0] == 0) {
    throw CommError(
        OperationId{.operation = "start", .rank = control.rank()},
        "rank 0 could not make an NCCL id: no usable network interface (NCCL_SOCKET_IFNAME, NCCL_DEBUG=INFO)");
  }
  std::memcpy(&id, &message[1], sizeof(id));
  return id;
}

/// Two NCCLs in one process (LibTorch brings its own) end in undefined behaviour; a difference shows here, on all ranks
/// at once.
void require_matching_library(Communicator& control) {
  int version = 0;
  ncclGetVersion(&version);
  const std::int64_t own = version;
  std::vector<std::int64_t> versions(static_cast<std::size_t>(control.size()));
  control.all_gather(std::span<const std::int64_t>(&own, 1), std::span<std::int64_t>(versions)).wait();
  const auto other = std::find_if(versions.begin(), versions.end(), [](auto v) { return v != NCCL_VERSION_CODE; });
  if (other == versions.end()) return;
  throw CommError(OperationId{.operation = "start", .rank = control.rank()},
                  fmt::format("built with the headers of NCCL {}, but the library loaded on rank {} is {}. Build and "
                              "run with the same NCCL (LD_LIBRARY_PATH, or -DNCCL_ROOT at configuration).",
                              NCCL_VERSION_CODE, other - versions.begin(), *other));
}

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control, int device,
                                                     const CommunicatorOptions& options) {
  require_matching_library(control);
  const ncclUniqueId id = agree_on_id(control);
  const DeviceGuard guard(device);
  return std::make_unique<NcclCommunicator>(
      std::make_shared<Channel>(control.rank(), control.size(), device, id, options));
}

}  // namespace perrin::comm
