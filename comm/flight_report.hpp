#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "comm/flight_recorder.hpp"

namespace perrin::comm {

/// A file that is no flight record, or not one of this machine's byte order and this version's layout.
class FlightFileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What one rank has left.
struct RankRecord {
  FlightHeader header{};
  std::vector<FlightSlot> slots;  ///< oldest first; entries that are torn or make no sense are left out
  std::size_t torn = 0;           ///< of them
  bool alive = false;             ///< the process still writes
};

/// @throws FlightFileError
RankRecord read_flight_file(const std::filesystem::path& path);

/// Where one rank stood on one communicator.
struct RankPosition {
  int rank = 0;
  std::uint64_t completed = 0;  ///< last completed sequence number
  std::uint64_t submitted = 0;  ///< last submitted one
  /// first one that is submitted and not completed, and its state; 0: none
  std::uint64_t unfinished = 0;
  CollectiveState state = CollectiveState::completed;
};

/// Another operation, size, type, reduction or root under one sequence number.
struct Mismatch {
  std::string communicator;
  std::uint64_t sequence = 0;
  int rank_a = 0;
  std::string operation_a;  ///< "all_reduce of 400 bytes float32 (sum)"
  int rank_b = 0;
  std::string operation_b;
};

struct CommunicatorReport {
  std::string name;
  std::vector<RankPosition> positions;  ///< by rank
  /// The first operation on which the ranks differ: some have not submitted it, or nobody has completed it. 0: none
  std::uint64_t sequence = 0;
  std::string operation;        ///< as in Mismatch; empty if no ring holds it any more
  std::string phase;            ///< in which the ranks submitted it
  std::vector<int> late_ranks;  ///< have not submitted it or, where all have, did so kLateBy after the first
};

struct RankEnding {
  int rank = 0;
  std::string host;
  std::int64_t pid = 0;
  Ending ending = Ending::running;  ///< running: alive, or killed
  bool alive = false;
  int exit_code = 0;
  std::string reason;
  Phase phase = Phase::start;
  double silent_seconds = 0;  ///< how long before the last sign of life of any rank this one gave its last
  double pause_seconds = 0;   ///< for how long it was stopped or starved shortly before the end
};

/// The merged records of the newest start of a run.
struct FlightReport {
  int ranks = 0;
  std::vector<RankEnding> endings;      ///< of the ranks that left a record
  std::vector<int> missing;             ///< ranks that left none
  std::vector<std::string> unreadable;  ///< files that are refused, with the reason
  std::vector<CommunicatorReport> communicators;
  std::vector<Mismatch> mismatches;
  /// The ranks to look at first: those with an error of their own, else those killed or stopped, else the late ones.
  std::vector<int> named_ranks;

  /// Not orderly, and over.
  bool ended_badly() const;
  /// One line: the ranks and why, the operation, bytes and phase.
  std::string summary() const;
};

/// Merges rank-*.bin of a folder. Where some ranks have ended and others live, it waits up to 3 s for these to end too.
/// @return nullopt if it holds none
std::optional<FlightReport> merge_flight(const std::filesystem::path& folder);

}  // namespace perrin::comm
