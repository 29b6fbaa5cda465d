#include "tests/comm/host_gpu/exchange.hpp"

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <mutex>
#include <thread>

namespace perrin::host_gpu {
namespace {

using std::chrono::microseconds;

constexpr std::size_t kLongestMessage = std::size_t{1} << 30;  // below MPI's int

MPI_Comm g_wire = MPI_COMM_NULL;

/// MPI may still read and write the buffers of a withdrawn exchange, so they stay for ever.
void bury(std::vector<Bytes>&& buffers) {
  static std::mutex mutex;
  static auto& graveyard = *new std::deque<std::vector<Bytes>>;
  const std::lock_guard lock(mutex);
  graveyard.push_back(std::move(buffers));
}

template <typename Post>
void for_each_message(Bytes& buffer, const Post& post) {
  for (std::size_t at = 0; at < buffer.size(); at += kLongestMessage)
    post(buffer.data() + at, static_cast<int>(std::min(kLongestMessage, buffer.size() - at)));
}

}  // namespace

bool wire_exists() { return g_wire != MPI_COMM_NULL; }

bool carry_out(const Wire& wire, const Exchange& exchange, const std::atomic<bool>& aborted) {
  if (aborted) return false;
  std::vector<Bytes> received;
  std::vector<Bytes> sent;
  std::deque<Bytes> to_self;
  std::vector<MPI_Request> requests;
  // What a rank sends to itself is moved there.
  for (const Exchange::Receive& receive : exchange.receives)
    received.emplace_back(receive.peer == wire.rank ? 0 : receive.bytes);
  for (std::size_t i = 0; i < received.size(); ++i) {
    if (exchange.receives[i].peer == wire.rank) continue;
    for_each_message(received[i], [&](std::byte* data, int length) {
      MPI_Irecv(data, length, MPI_BYTE, exchange.receives[i].peer, wire.tag, g_wire, &requests.emplace_back());
    });
  }
  const std::size_t receive_requests = requests.size();
  for (const Exchange::Send& send : exchange.sends) {
    const auto* data = static_cast<const std::byte*>(send.data);
    Bytes copy(data, data + send.bytes);
    if (send.peer == wire.rank) {
      to_self.push_back(std::move(copy));
      continue;
    }
    for_each_message(sent.emplace_back(std::move(copy)), [&](std::byte* piece, int length) {
      MPI_Isend(piece, length, MPI_BYTE, send.peer, wire.tag, g_wire, &requests.emplace_back());
    });
  }
  for (std::size_t i = 0; i < received.size(); ++i) {
    if (exchange.receives[i].peer != wire.rank) continue;
    received[i] = std::move(to_self.front());
    to_self.pop_front();
  }

  constexpr microseconds kLongestSleep{200};
  microseconds sleep{5};
  for (int done = requests.empty() ? 1 : 0; done == 0;) {
    if (aborted) {
      for (std::size_t i = 0; i < requests.size(); ++i) {
        if (requests[i] == MPI_REQUEST_NULL) continue;
        if (i < receive_requests) MPI_Cancel(&requests[i]);
        MPI_Request_free(&requests[i]);
      }
      bury(std::move(received));
      bury(std::move(sent));
      return false;
    }
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (done != 0) break;
    std::this_thread::sleep_for(sleep);
    sleep = std::min(2 * sleep, kLongestSleep);
  }
  if (aborted) return false;
  sent.clear();
  exchange.finish(received);
  return true;
}

}  // namespace perrin::host_gpu

// The duplicate must be made while all ranks are together, whatever they do later: right after the start of MPI.
extern "C" int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  const int code = PMPI_Init_thread(argc, argv, required, provided);
  if (code == MPI_SUCCESS) MPI_Comm_dup(MPI_COMM_WORLD, &perrin::host_gpu::g_wire);
  return code;
}
