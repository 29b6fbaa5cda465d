#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "comm/data_type.hpp"

namespace perrin::comm {

/// What the program does when a collective is submitted.
enum class Phase : std::uint8_t { start, step, evaluation, checkpoint, sampling, shutdown };

enum class CollectiveKind : std::uint8_t { all_reduce, reduce_scatter, all_gather, all_to_all, broadcast, barrier };

/// enqueued by the caller, started by the backend, then one of the two ends.
enum class CollectiveState : std::uint8_t { enqueued, started, completed, failed };

/// How a process left. A killed one leaves `running` behind.
enum class Ending : std::uint8_t { running, orderly, error, watchdog };

std::string_view name_of(Phase phase) noexcept;
std::string_view name_of(CollectiveKind kind) noexcept;
std::string_view name_of(CollectiveState state) noexcept;
std::string_view name_of(Ending ending) noexcept;

/// What all ranks must agree on for one sequence number of one communicator.
struct Collective {
  CollectiveKind kind = CollectiveKind::barrier;
  DataType type = DataType::uint8;
  std::uint64_t bytes = 0;   ///< of the caller's larger buffer
  std::uint32_t detail = 0;  ///< the ReduceOp of a reduction, the root of a broadcast

  bool operator==(const Collective&) const = default;
};

/// "all_reduce of 4000000 bytes float32 (sum)", "broadcast of 8 bytes int64 from rank 0", "barrier".
std::string describe(const Collective& collective);

// ---- The file: FlightHeader, then kFlightSlots times FlightSlot, in the byte order of the machine (the magic tells).

inline constexpr std::size_t kFlightSlots = 256;
inline constexpr std::size_t kFlightTracks = 4;
inline constexpr std::uint64_t kFlightMagic = 0x31544c464e525250;  // "PRRNFLT1" on a little-endian machine

/// Counts of one communicator; they outlive the slots, which are overwritten.
struct FlightTrackSummary {
  std::array<char, 16> name;  ///< empty: unused
  std::uint64_t enqueued;     ///< highest sequence number submitted
  std::uint64_t finished;     ///< highest sequence number completed or failed
  std::uint64_t failed;       ///< first sequence number that failed; 0: none
};

struct FlightHeader {
  std::uint64_t magic;
  std::uint32_t slots;
  std::uint32_t slot_bytes;
  std::uint64_t start_id;  ///< equal on all ranks of one start of the run
  std::int32_t rank;
  std::int32_t size;
  std::int64_t pid;
  std::array<char, 64> host;
  std::int64_t pulse_wall_ns;  ///< the process was alive then
  std::int64_t last_pause_ns;  ///< between two pulses, above 1 s: the process was stopped, or starved
  std::int64_t last_pause_end_wall_ns;
  std::int64_t phase_since_wall_ns;
  Phase phase;
  Ending ending;
  std::array<std::uint8_t, 2> unused;
  std::int32_t exit_code;        ///< of an `error` or `watchdog` ending
  std::array<char, 256> reason;  ///< of that ending
  std::array<FlightTrackSummary, kFlightTracks> tracks;
  std::uint64_t recorded;  ///< collectives ever put into the ring
  std::uint64_t unused_too;
};

struct FlightSlot {
  std::uint64_t ticket;  ///< from 1, place in the ring is (ticket - 1) % slots; 0: empty, or being written
  std::uint64_t sequence;
  std::uint64_t bytes;
  std::int64_t enqueued_wall_ns;
  std::int64_t enqueued_ns;  ///< monotonic clock, as the two below; 0: not yet
  std::int64_t started_ns;
  std::int64_t ended_ns;
  std::uint32_t detail;
  std::uint8_t track;
  CollectiveKind kind;
  std::uint8_t type;  ///< a DataType
  Phase phase;
  CollectiveState state;
  std::array<std::uint8_t, 7> unused;
};

struct FlightFile {
  FlightHeader header;
  std::array<FlightSlot, kFlightSlots> slots;
};
static_assert(sizeof(FlightTrackSummary) == 40);
static_assert(sizeof(FlightHeader) == 576, "the layout of the file is fixed");
static_assert(sizeof(FlightSlot) == 72, "the layout of the file is fixed");

/// "rank-0003.bin"
std::string flight_file_name(int rank);

/// The last collectives of this process, in the order of submission. In memory at first; once record_in() has been
/// called in a file mapped shared, which survives the process however it dies. All methods may be called from any
/// thread, take one short mutex and call neither MPI nor CUDA. Measured: about 0.2 us for a collective (submission,
/// start and end together).
class FlightRecorder {
 public:
  FlightRecorder();
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;
  ~FlightRecorder();

  /// Goes on in folder/rank-NNNN.bin with what is recorded so far; a former file becomes rank-NNNN.previous.bin.
  /// @return why that is impossible (the disk is full, or cannot be mapped); empty: done. Recording stays in memory
  /// then.
  /// @throws std::logic_error if it records in a file already
  std::string record_in(const std::filesystem::path& folder, int rank, int size, std::uint64_t start_id);

  /// A communicator's number for the calls below. Equal on all ranks if they make their communicators in the same
  /// order. @throws std::length_error if there are kFlightTracks already
  int add_track(std::string_view name);

  /// What the program does from now on, and how long a communicator may make no progress in it before the Watchdog
  /// ends the process. @param deadline 0: for ever
  void enter(Phase phase, std::chrono::milliseconds deadline) noexcept;
  /// How this process leaves; the first call is kept.
  void end(Ending ending, int exit_code, std::string_view reason) noexcept;

  /// @return the ticket for the calls below
  std::uint64_t enqueued(int track, std::uint64_t sequence, const Collective& collective) noexcept;
  void started(std::uint64_t ticket) noexcept;
  void completed(int track, std::uint64_t sequence, std::uint64_t ticket) noexcept;
  void failed(int track, std::uint64_t sequence, std::uint64_t ticket) noexcept;

  /// For the Watchdog; takes no lock.
  struct Heartbeat {
    std::uint64_t enqueued = 0;
    std::uint64_t finished = 0;
    bool operator==(const Heartbeat&) const = default;
  };
  Heartbeat heartbeat(std::size_t track) const noexcept;
  std::chrono::milliseconds deadline() const noexcept { return std::chrono::milliseconds(deadline_ms_.load()); }
  /// "all_reduce #7 of gradients, 4000000 bytes float32, in phase step": the oldest collective under way.
  std::string describe_oldest(std::size_t track) const;

 private:
  void finish(int track, std::uint64_t sequence, std::uint64_t ticket, CollectiveState state) noexcept;
  FlightSlot* slot_of(std::uint64_t ticket) noexcept;
  void beat();

  mutable std::mutex mutex_;
  std::unique_ptr<FlightFile> memory_;
  FlightFile* file_;     // memory_, or the mapping
  int descriptor_ = -1;  // of the file; holds its lock while the process lives
  struct Counts {
    std::atomic<std::uint64_t> enqueued{0};
    std::atomic<std::uint64_t> finished{0};
  };
  std::array<Counts, kFlightTracks> counts_;
  std::atomic<std::int64_t> deadline_ms_{0};

  // Tells a process that was killed or stopped from one that waits: its own thread, since a file system that hangs must
  // hang neither the Watchdog nor a collective.
  std::mutex pulse_mutex_;
  std::condition_variable pulse_over_;
  bool closing_ = false;
  std::thread pulse_;
};

/// Where a communicator records its operations; nowhere by default.
struct FlightTrack {
  std::shared_ptr<FlightRecorder> recorder;
  int index = 0;

  std::uint64_t enqueued(std::uint64_t sequence, const Collective& collective) const noexcept {
    return recorder ? recorder->enqueued(index, sequence, collective) : 0;
  }
  void started(std::uint64_t ticket) const noexcept {
    if (recorder) recorder->started(ticket);
  }
  void completed(std::uint64_t sequence, std::uint64_t ticket) const noexcept {
    if (recorder) recorder->completed(index, sequence, ticket);
  }
  void failed(std::uint64_t sequence, std::uint64_t ticket) const noexcept {
    if (recorder) recorder->failed(index, sequence, ticket);
  }
};

}  // namespace perrin::comm
