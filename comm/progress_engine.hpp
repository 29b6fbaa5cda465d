#pragma once

#include <mpi.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/node_memory.hpp"
#include "comm/schedule.hpp"

namespace perrin::comm {

/// False once a communicator of this process has failed with a send that did not end: MPI might read its buffer, which
/// is the caller's again, in any call. The process must leave without MPI_Finalize then.
bool mpi_may_be_called() noexcept;

/// Carries out submitted schedules on one MPI communicator, one after the other in the order of submission. Whoever has
/// time drives it: its own thread in the background, sleeping between polls, or a caller that waits anyway, which saves
/// the hand-over between threads.
class ProgressEngine : public std::enable_shared_from_this<ProgressEngine> {
 public:
  /// Takes the MPI communicator over; nobody else may use it. Its errors are returned, not fatal.
  /// @param node  memory of the ranks of this communicator, or null
  ProgressEngine(MPI_Comm comm, const CommunicatorOptions& options, std::unique_ptr<NodeMemory> node);
  ProgressEngine(const ProgressEngine&) = delete;
  ProgressEngine& operator=(const ProgressEngine&) = delete;
  ~ProgressEngine();

  /// Group of this engine for building schedules.
  Group group() noexcept { return {rank_, size_, options_.piece_bytes, &staging_, node_.get()}; }
  bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }

  /// Puts an operation behind all earlier ones. @throws CommError if an earlier one has failed
  std::shared_ptr<PendingOperation> submit(const Collective& collective, std::unique_ptr<Schedule> schedule);

  /// Ends the thread and the communicator; unfinished operations fail. Never waits for a peer.
  void close() noexcept;

 private:
  class Operation;
  struct OpenRequest {
    int peer;
    std::size_t bytes;
    bool is_receive;
  };

  // All below need drive_mutex_.
  bool drive() noexcept;
  void poke();
  bool poll();
  bool poll_requests();
  bool poll_signals();
  void start_next_round();
  void post(const Round& round);
  /// Completes the operation under way, once the simulated wire would have carried it.
  bool complete_current();
  void fail_everything(const std::string& reason, std::vector<int> late_ranks) noexcept;
  void release_buffers() noexcept;
  bool ended_within(std::chrono::milliseconds grace) noexcept;
  void require_mpi_callable() const;
  std::vector<int> late_ranks() const;
  std::string describe_delay(const Operation& operation) const;

  void run();
  bool idle();

  MPI_Comm comm_;
  CommunicatorOptions options_;
  std::unique_ptr<NodeMemory> node_;
  int rank_ = 0;
  int size_ = 1;
  std::atomic<int> waiters_{0};  // callers that drive the engine at the moment
  std::atomic<bool> failed_{false};

  std::mutex drive_mutex_;  // the operation under way; taken before inbox_mutex_
  std::shared_ptr<Operation> current_;
  std::chrono::steady_clock::time_point due_;  // on the simulated wire
  bool transferred_ = false;                   // its schedule is complete, only the wire is not
  std::vector<MPI_Request> requests_;
  std::vector<OpenRequest> open_;  // parallel to requests_
  std::vector<int> completed_;
  std::vector<MPI_Status> statuses_;
  std::vector<Signal> signals_;  // not seen yet
  std::vector<std::byte> staging_;
  std::uint64_t rounds_ = 0;

  std::mutex inbox_mutex_;
  std::condition_variable submitted_;
  std::deque<std::shared_ptr<Operation>> inbox_;
  std::uint64_t sequence_ = 0;
  std::string failure_;  // why failed_
  bool closing_ = false;
  bool asleep_ = false;  // the thread does not look for operations by itself

  std::thread thread_;
};

}  // namespace perrin::comm
