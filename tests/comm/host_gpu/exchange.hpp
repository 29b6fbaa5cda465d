// The wire below the NCCL calls: point-to-point messages of all ranks of one communicator, over MPI.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <vector>

namespace perrin::host_gpu {

using Bytes = std::vector<std::byte>;

/// One collective, or one group of sends and receives, as a rank sees it.
struct Exchange {
  struct Send {
    int peer;
    const void* data;
    std::size_t bytes;
  };
  struct Receive {
    int peer;
    std::size_t bytes;
  };
  std::vector<Send> sends;
  std::vector<Receive> receives;
  /// Puts what has come, one entry for each receive, into the caller's buffers.
  std::function<void(const std::vector<Bytes>& received)> finish = [](const std::vector<Bytes>&) {};
};

/// Where the messages of a communicator go.
struct Wire {
  int rank;
  int size;
  int tag;  ///< differs between the communicators of a process, agrees between its ranks
};

/// True if MPI runs, so that there may be several ranks.
bool wire_exists();

/// Blocks until all messages are through.
/// @return false if `aborted` became true before; then nothing has reached the caller's buffers
bool carry_out(const Wire& wire, const Exchange& exchange, const std::atomic<bool>& aborted);

}  // namespace perrin::host_gpu
