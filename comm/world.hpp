#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/device.hpp"

namespace perrin::comm {

/// How the ranks of a run come together; equal on all of them.
struct WorldOptions {
  /// Deadline and piece size of control() and gradients().
  CommunicatorOptions communicator;
  /// Compare what the ranks submit to gradients() before each collective (CheckedCommunicator).
  bool check_collectives = false;
  /// Refuse a world of one rank where SLURM_NTASKS says that the allocation has more: right for training, too strict
  /// for a command that a batch script runs once beside it. SLURM_STEP_NUM_TASKS > 1 with a world of one rank is always
  /// refused.
  bool require_all_slurm_tasks = true;
  /// The process leaves with kCommExitCode when MPI's own start or end takes longer.
  std::chrono::milliseconds start_deadline{300'000};
  std::chrono::milliseconds end_deadline{30'000};
};

/// Exit code of a process that a deadline ends where no exception can be thrown (start and end of MPI, an abort that
/// hangs).
inline constexpr int kCommExitCode = 75;

/// The ranks of this run. Owns MPI_Init_thread and MPI_Finalize; one per process, passed by reference. Every other
/// object of comm/ must be gone before it.
///
/// main() keeps it outside the try block, logs the exception and calls abort(code): then no other rank waits for this
/// one. If an exception unwinds through the World itself, or control() or gradients() has failed, its destructor leaves
/// MPI_Finalize out, since that would wait for the others; the launcher ends them when this process exits.
class World {
 public:
  /// MPI when a launcher has started this process (OMPI_COMM_WORLD_SIZE, PMIX_RANK or PMI_RANK is set), else one local
  /// process without MPI.
  /// @throws CommError with the fix: MPI without MPI_THREAD_MULTIPLE; one rank where the launcher or Slurm has more
  static World from_environment(const WorldOptions& options = {});

  World(World&&) noexcept;
  World& operator=(World&&) = delete;
  ~World();

  int rank() const noexcept;
  int size() const noexcept;
  /// Rank and number of ranks on this node.
  int local_rank() const noexcept;
  int local_size() const noexcept;
  bool is_root() const noexcept { return rank() == 0; }
  const std::string& host_name() const noexcept;
  /// The host of every rank.
  const std::vector<std::string>& host_names() const noexcept;

  /// Small decisions and checks, in host memory.
  Communicator& control() noexcept;
  /// Gradients: in host memory, until use_device has chosen a device; then in device memory over NCCL.
  Communicator& gradients() noexcept;
  /// Another communicator of the same ranks in host memory, to be gone before the World. Collective. @throws CommError
  std::unique_ptr<Communicator> make_communicator(const CommunicatorOptions& options);

  /// Chooses where gradients() live: with automatic on GPUs if every rank has one of its own, else in host memory.
  /// Collective. Makes the device current on the calling thread and renews gradients(): take references to it
  /// afterwards.
  /// @return the device's index, or nullopt for the CPU
  /// @param sharing  allowed: ranks of one node may have one GPU; before any other call of NCCL
  /// @throws CommError, on all ranks: cuda without a GPU for every rank; two ranks on one GPU (named by host, bus id
  /// and ranks) that may not; NCCL fails
  std::optional<int> use_device(DeviceChoice choice, DeviceSharing sharing = DeviceSharing::refused);

  /// From now on the collectives of control() and gradients() are recorded in a file of this rank in the folder, which
  /// survives the process; flight_report.hpp reads it. Collective.
  /// @return why this rank records in memory only; empty: it records in the folder
  /// @throws CommError
  std::string record_flight_in(const std::filesystem::path& folder);
  /// What the program does from now on: recorded, and the deadline of the Watchdog. A communicator whose operations
  /// make no progress for so long ends the process with kWatchdogExitCode. Phase::start has no deadline.
  /// @param deadline  0: that of the communicators
  void enter(Phase phase, std::chrono::milliseconds deadline = std::chrono::milliseconds(0)) noexcept;
  /// Records why this process is about to leave with an error.
  void record_failure(int code, std::string_view reason) noexcept;

  /// Ends all ranks with this exit code, within 10 s; for main() after it has logged. Never returns.
  [[noreturn]] void abort(int code) noexcept;

 private:
  class State;
  explicit World(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace perrin::comm
