// NCCL on the host: non-blocking communicators, groups, and collectives as exchanges of messages.
#include <nccl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/comm/host_gpu/cuda_objects.hpp"
#include "tests/comm/host_gpu/exchange.hpp"
#include "tests/comm/host_gpu/host_gpu.hpp"
#include "tests/comm/host_gpu/reduction.hpp"
#include "tests/comm/host_gpu/settings.hpp"

namespace perrin::host_gpu {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kInitTime{2};
constexpr milliseconds kTimeToError{20};  // long enough for the call to have been taken in before

/// What the operations on a stream share with their communicator; they may outlive it.
struct State {
  explicit State(const Wire& to) : wire(to), plan(planned_fault()) {}

  Wire wire;
  FaultPlan plan;
  std::atomic<ncclResult_t> result{ncclInProgress};
  std::atomic<bool> aborted{false};
  std::atomic<int> unfinished{0};  ///< operations on streams
  std::atomic<int> operations{0};

  bool planned(Fault fault) const { return plan.fault == fault && plan.rank == wire.rank; }

  void fail(ncclResult_t code, const char* text) {
    {
      const std::lock_guard lock(mutex_);
      last_error_ = text;
    }
    result = code;
  }
  /// The end of ncclInProgress, unless an error has come first.
  void succeed() {
    ncclResult_t expected = ncclInProgress;
    result.compare_exchange_strong(expected, ncclSuccess);
  }
  const char* last_error() {
    const std::lock_guard lock(mutex_);
    return last_error_;
  }
  void stay_until_aborted() const {
    while (!aborted) std::this_thread::sleep_for(milliseconds(1));
  }

 private:
  std::mutex mutex_;
  const char* last_error_ = "";
};

/// By what NCCL 2.28 tells the places of two ranks apart (fillInfo and ncclCommInitRankFunc in init.cc).
using Identity = std::array<char, 64>;

Identity own_identity() {
  int device = 0;
  cudaGetDevice(&device);
  char bus_id[32] = {};
  cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), device);
  const char* host = std::getenv("NCCL_HOSTID");
  Identity identity{};
  std::snprintf(identity.data(), identity.size(), "%s %s", bus_id, host != nullptr ? host : "");
  return identity;
}

void come_up(State& state, const Identity& own) {
  std::this_thread::sleep_for(kInitTime);
  if (state.planned(Fault::never_joins)) return state.stay_until_aborted();
  if (state.planned(Fault::init_fails)) return state.fail(ncclSystemError, "injected: no network interface");
  Exchange hello;
  for (int peer = 0; peer < state.wire.size; ++peer) {
    hello.sends.push_back({peer, reinterpret_cast<const std::byte*>(own.data()), own.size()});
    hello.receives.push_back({peer, own.size()});
  }
  std::set<std::string> places;
  hello.finish = [&](const std::vector<Bytes>& received) {
    for (const Bytes& identity : received) places.insert(reinterpret_cast<const char*>(identity.data()));
  };
  if (!carry_out(state.wire, hello, state.aborted)) return;
  if (static_cast<int>(places.size()) < state.wire.size)
    state.fail(ncclInvalidUsage, "Duplicate GPU detected");
  else
    state.succeed();
}

/// An operation when its turn on the stream has come.
void execute(State& state, const Exchange& exchange) {
  const bool faulty = ++state.operations > state.plan.after_operations;
  if (faulty && state.planned(Fault::asynchronous_error)) {
    std::this_thread::sleep_for(kTimeToError);
    state.fail(ncclRemoteError, "injected: connection lost");
  }
  if (faulty && (state.planned(Fault::asynchronous_error) || state.planned(Fault::never_completes) ||
                 state.planned(Fault::abort_hangs))) {
    state.stay_until_aborted();
  } else {
    carry_out(state.wire, exchange, state.aborted);
  }
  --state.unfinished;
}

}  // namespace
}  // namespace perrin::host_gpu

struct ncclComm {
  std::shared_ptr<perrin::host_gpu::State> state;
  perrin::host_gpu::TaskQueue calls;  ///< what NCCL has yet to take in

  explicit ncclComm(const perrin::host_gpu::Wire& wire) : state(std::make_shared<perrin::host_gpu::State>(wire)) {
    ++perrin::host_gpu::counters().communicators;
  }
  ~ncclComm() { --perrin::host_gpu::counters().communicators; }
};

namespace perrin::host_gpu {
namespace {

/// The part of a group that one communicator launches on one stream.
struct Launch {
  ncclComm_t comm;
  cudaStream_t stream;
  std::vector<Exchange> exchanges;
};

thread_local int t_group_depth = 0;
thread_local std::vector<Launch> t_group;

/// All at once, as the sends and receives of a group are.
Exchange merged(std::vector<Exchange> exchanges) {
  if (exchanges.size() == 1) return std::move(exchanges.front());
  Exchange whole;
  for (const Exchange& each : exchanges) {
    whole.sends.insert(whole.sends.end(), each.sends.begin(), each.sends.end());
    whole.receives.insert(whole.receives.end(), each.receives.begin(), each.receives.end());
  }
  whole.finish = [exchanges = std::move(exchanges)](const std::vector<Bytes>& received) {
    auto at = received.begin();
    for (const Exchange& each : exchanges) {
      const auto end = at + static_cast<std::ptrdiff_t>(each.receives.size());
      each.finish(std::vector<Bytes>(at, end));
      at = end;
    }
  };
  return whole;
}

ncclResult_t refusal(State& state) {
  if (state.result != ncclInProgress) return state.result;
  return ncclInvalidUsage;  // the call before has not been taken in yet
}

ncclResult_t launch(Launch what) {
  const std::shared_ptr<State> state = what.comm->state;
  if (state->result != ncclSuccess) return refusal(*state);
  state->result = ncclInProgress;
  ++state->unfinished;
  what.comm->calls.push(
      [state, stream = what.stream, exchange = std::make_shared<Exchange>(merged(std::move(what.exchanges)))] {
        std::this_thread::sleep_for(launch_delay());
        queue_of(stream).push([state, exchange] { execute(*state, *exchange); });
        state->succeed();
      });
  return ncclInProgress;
}

ncclResult_t enqueue(ncclComm_t comm, cudaStream_t stream, Exchange exchange) {
  if (t_group_depth == 0) return launch({comm, stream, {std::move(exchange)}});
  if (comm->state->result != ncclSuccess) return refusal(*comm->state);
  for (Launch& of_group : t_group) {
    if (of_group.comm != comm || of_group.stream != stream) continue;
    of_group.exchanges.push_back(std::move(exchange));
    return ncclSuccess;
  }
  t_group.push_back({comm, stream, {std::move(exchange)}});
  return ncclSuccess;
}

const std::byte* at(const void* data, std::size_t offset) { return static_cast<const std::byte*>(data) + offset; }
std::byte* at(void* data, std::size_t offset) { return static_cast<std::byte*>(data) + offset; }

void store(const Bytes& from, void* to) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}

/// The number of a communicator travels in its id and tags its messages.
int number_in(const ncclUniqueId& id) {
  int number = 0;
  std::memcpy(&number, id.internal, sizeof(number));
  return number;
}

}  // namespace
}  // namespace perrin::host_gpu

using namespace perrin::host_gpu;

extern "C" {

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t comm) { return comm == nullptr ? "" : comm->state->last_error(); }

ncclResult_t ncclGetVersion(int* version) {
  *version = library_version() != 0 ? library_version() : NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<int> made{0};
  const int number = ++made;
  std::memset(id->internal, 0, sizeof(id->internal));
  std::memcpy(id->internal, &number, sizeof(number));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
  if (config->blocking != 0 || rank < 0 || rank >= size) return ncclInvalidArgument;
  if (size > 1 && !wire_exists()) return ncclInvalidUsage;
  *comm = new ncclComm({rank, size, number_in(id)});
  (*comm)->calls.push([state = (*comm)->state, own = own_identity()] { come_up(*state, own); });
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  *result = comm->state->result;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const std::shared_ptr<State> state = comm->state;
  if (state->result != ncclSuccess) return refusal(*state);
  state->result = ncclInProgress;
  comm->calls.push([state] {
    while (state->unfinished > 0 && !state->aborted) std::this_thread::sleep_for(milliseconds(1));
    state->succeed();
  });
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm->state->result == ncclInProgress) return ncclInvalidUsage;
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm->state->planned(Fault::abort_hangs)) std::this_thread::sleep_for(std::chrono::hours(1));
  comm->state->aborted = true;
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  ++t_group_depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (t_group_depth == 0) return ncclInvalidUsage;
  if (--t_group_depth > 0) return ncclSuccess;
  ncclResult_t result = ncclSuccess;
  for (Launch& of_group : std::exchange(t_group, {})) {
    const ncclResult_t code = launch(std::move(of_group));
    if (result == ncclSuccess || result == ncclInProgress) result = code;  // the first error is the group's
  }
  return result;
}

ncclResult_t ncclAllReduce(const void* input, void* output, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  const std::size_t bytes = count * size_of(type);
  if (size_of(type) == 0 || !known(op)) return ncclInvalidArgument;
  if (count == 0) return ncclSuccess;
  Exchange exchange;
  for (int peer = 0; peer < comm->state->wire.size; ++peer) {
    exchange.sends.push_back({peer, input, bytes});
    exchange.receives.push_back({peer, bytes});
  }
  exchange.finish = [=](const std::vector<Bytes>& received) { reduce(received, output, count, type, op); };
  return enqueue(comm, stream, std::move(exchange));
}

ncclResult_t ncclReduceScatter(const void* input, void* output, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  const std::size_t bytes = count * size_of(type);
  if (size_of(type) == 0 || !known(op)) return ncclInvalidArgument;
  if (count == 0) return ncclSuccess;
  Exchange exchange;
  for (int peer = 0; peer < comm->state->wire.size; ++peer) {
    exchange.sends.push_back({peer, at(input, static_cast<std::size_t>(peer) * bytes), bytes});
    exchange.receives.push_back({peer, bytes});
  }
  exchange.finish = [=](const std::vector<Bytes>& received) { reduce(received, output, count, type, op); };
  return enqueue(comm, stream, std::move(exchange));
}

ncclResult_t ncclAllGather(const void* input, void* output, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  const std::size_t bytes = count * size_of(type);
  if (size_of(type) == 0) return ncclInvalidArgument;
  if (count == 0) return ncclSuccess;
  Exchange exchange;
  for (int peer = 0; peer < comm->state->wire.size; ++peer) {
    exchange.sends.push_back({peer, input, bytes});
    exchange.receives.push_back({peer, bytes});
  }
  exchange.finish = [=](const std::vector<Bytes>& received) {
    for (std::size_t rank = 0; rank < received.size(); ++rank) store(received[rank], at(output, rank * bytes));
  };
  return enqueue(comm, stream, std::move(exchange));
}

ncclResult_t ncclBroadcast(const void* input, void* output, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  const std::size_t bytes = count * size_of(type);
  const Wire& wire = comm->state->wire;
  if (size_of(type) == 0 || root < 0 || root >= wire.size) return ncclInvalidArgument;
  if (count == 0) return ncclSuccess;
  Exchange exchange;
  if (wire.rank == root) {
    for (int peer = 0; peer < wire.size; ++peer) {
      if (peer != root) exchange.sends.push_back({peer, input, bytes});
    }
    exchange.finish = [=](const std::vector<Bytes>&) {
      if (output != input && bytes > 0) std::memcpy(output, input, bytes);
    };
  } else {
    exchange.receives.push_back({root, bytes});
    exchange.finish = [=](const std::vector<Bytes>& received) { store(received.front(), output); };
  }
  return enqueue(comm, stream, std::move(exchange));
}

ncclResult_t ncclSend(const void* input, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  if (size_of(type) == 0 || peer < 0 || peer >= comm->state->wire.size) return ncclInvalidArgument;
  Exchange exchange;
  exchange.sends.push_back({peer, input, count * size_of(type)});
  return enqueue(comm, stream, std::move(exchange));
}

ncclResult_t ncclRecv(void* output, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  if (size_of(type) == 0 || peer < 0 || peer >= comm->state->wire.size) return ncclInvalidArgument;
  Exchange exchange;
  exchange.receives.push_back({peer, count * size_of(type)});
  exchange.finish = [=](const std::vector<Bytes>& received) { store(received.front(), output); };
  return enqueue(comm, stream, std::move(exchange));
}

}  // extern "C"
