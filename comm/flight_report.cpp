#include "comm/flight_report.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <string_view>
#include <thread>

#include "comm/world.hpp"

namespace perrin::comm {
namespace {

constexpr double kNanosecondsPerSecond = 1e9;
// mpirun gives the other ranks 1 s after one has died; the pulse is every 0.1 s.
constexpr double kSilentBy = 0.6;
// A rank that was stopped comes back to life while the launcher ends the run, and submits then.
constexpr double kLateBy = 1.0;
// A rank that was stopped is woken by the launcher when that ends the run.
constexpr double kRecently = 10.0;
// No pulse for so long: dead, where the file system has no locks.
constexpr double kDeadAfter = 3.0;
// The launcher may be gone before the last of the ranks that it killed: seen for a stopped one among four.
constexpr std::chrono::milliseconds kEndsTogetherWithin{3000}, kLookAgain{20};
constexpr int kMostRanks = 1 << 20;

template <std::size_t N>
std::string text_of(const std::array<char, N>& text) {
  return {text.data(), ::strnlen(text.data(), N)};
}

double seconds(std::int64_t ns) { return static_cast<double>(ns) / kNanosecondsPerSecond; }

bool makes_sense(const FlightSlot& slot, std::size_t place, const FlightHeader& header) {
  return slot.ticket != 0 && (slot.ticket - 1) % kFlightSlots == place && slot.track < kFlightTracks &&
         slot.kind <= CollectiveKind::barrier && slot.type <= static_cast<std::uint8_t>(DataType::uint8) &&
         slot.phase <= Phase::shutdown && slot.state <= CollectiveState::failed &&
         // one more than counted: killed between the two stores
         slot.ticket <= header.recorded + 1;
}

Collective collective_in(const FlightSlot& slot) {
  return {slot.kind, static_cast<DataType>(slot.type), slot.bytes, slot.detail};
}

const FlightSlot* find(const RankRecord& record, std::size_t track, std::uint64_t sequence) {
  for (const FlightSlot& slot : record.slots) {
    if (slot.track == track && slot.sequence == sequence) return &slot;
  }
  return nullptr;
}

RankPosition position_of(const RankRecord& record, std::size_t track) {
  const FlightTrackSummary& summary = record.header.tracks[track];
  RankPosition position{.rank = record.header.rank, .submitted = summary.enqueued};
  position.completed = summary.failed > 0 ? summary.failed - 1 : summary.finished;
  // The slots may be one store ahead of the counts.
  for (const FlightSlot& slot : record.slots) {
    if (slot.track == track) position.submitted = std::max(position.submitted, slot.sequence);
  }
  if (position.completed < position.submitted) {
    position.unfinished = position.completed + 1;
    const FlightSlot* const slot = find(record, track, position.unfinished);
    position.state = slot != nullptr ? slot->state : CollectiveState::started;
  }
  return position;
}

/// The first operation on which the ranks differ, and who is late there.
void find_late(CommunicatorReport& report, std::size_t track, const std::vector<RankRecord>& records) {
  const auto& positions = report.positions;
  const auto by_submitted = [](const RankPosition& a, const RankPosition& b) { return a.submitted < b.submitted; };
  const auto [fewest, most] = std::minmax_element(positions.begin(), positions.end(), by_submitted);
  if (fewest->submitted < most->submitted) {
    report.sequence = fewest->submitted + 1;
  } else {
    for (const RankPosition& position : positions) {
      if (position.unfinished != 0 && (report.sequence == 0 || position.unfinished < report.sequence))
        report.sequence = position.unfinished;
    }
  }
  if (report.sequence == 0) return;

  std::int64_t first_submitted = 0;
  for (const RankRecord& record : records) {
    const FlightSlot* const slot = find(record, track, report.sequence);
    if (slot == nullptr) continue;
    if (first_submitted == 0 || slot->enqueued_wall_ns < first_submitted) first_submitted = slot->enqueued_wall_ns;
    if (!report.operation.empty()) continue;
    report.operation = describe(collective_in(*slot));
    report.phase = name_of(slot->phase);
  }
  for (std::size_t i = 0; i < records.size(); ++i) {
    const FlightSlot* const slot = find(records[i], track, report.sequence);
    const bool never = positions[i].submitted < report.sequence;
    if (never || (slot != nullptr && seconds(slot->enqueued_wall_ns - first_submitted) > kLateBy))
      report.late_ranks.push_back(positions[i].rank);
  }
}

/// Each rank beside the first one that still has the operation: the first difference of the communicator.
std::optional<Mismatch> find_mismatch(const std::string& name, std::size_t track,
                                      const std::vector<RankRecord>& records) {
  struct First {
    const FlightSlot* slot;
    int rank;
  };
  std::map<std::uint64_t, First> seen;
  std::optional<Mismatch> found;
  for (const RankRecord& record : records) {
    for (const FlightSlot& slot : record.slots) {
      if (slot.track != track) continue;
      const auto [entry, is_first] = seen.try_emplace(slot.sequence, First{&slot, record.header.rank});
      if (is_first || (collective_in(*entry->second.slot) == collective_in(slot))) continue;
      if (found && found->sequence <= slot.sequence) continue;
      found = Mismatch{name,
                       slot.sequence,
                       entry->second.rank,
                       describe(collective_in(*entry->second.slot)),
                       record.header.rank,
                       describe(collective_in(slot))};
    }
  }
  return found;
}

RankEnding ending_of(const RankRecord& record, std::int64_t newest_pulse) {
  const FlightHeader& header = record.header;
  RankEnding ending{
      .rank = header.rank,
      .host = text_of(header.host),
      .pid = header.pid,
      .ending = header.ending,
      .exit_code = header.exit_code,
      .reason = text_of(header.reason),
      .phase = header.phase,
      .silent_seconds = seconds(newest_pulse - header.pulse_wall_ns),
  };
  if (seconds(newest_pulse - header.last_pause_end_wall_ns) < kRecently)
    ending.pause_seconds = seconds(header.last_pause_ns);
  ending.alive = record.alive;
  return ending;
}

/// The writer locks its file; the kernel unlocks it when the process is gone, however it went.
bool is_written(const std::filesystem::path& path, const FlightHeader& header) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  const bool locked = ::flock(descriptor, LOCK_SH | LOCK_NB) == 0;
  const int error = errno;
  ::close(descriptor);
  if (locked) return false;
  if (error == EWOULDBLOCK) return true;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return seconds(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() - header.pulse_wall_ns) < kDeadAfter;
}

/// Leaving because of others, as a rank that waited in vain does.
bool blames_others(const RankEnding& ending) {
  return ending.ending == Ending::watchdog || ending.exit_code == kCommExitCode;
}

std::vector<int> choose_named_ranks(const FlightReport& report) {
  std::vector<int> named;
  for (const RankEnding& ending : report.endings) {
    if (ending.ending == Ending::error && !blames_others(ending)) named.push_back(ending.rank);
  }
  if (!named.empty()) return named;
  named = report.missing;
  for (const RankEnding& ending : report.endings) {
    const bool silent = ending.ending == Ending::running && ending.silent_seconds > kSilentBy;
    if (silent || ending.pause_seconds > 0) named.push_back(ending.rank);
  }
  if (!named.empty()) return named;
  for (const Mismatch& mismatch : report.mismatches) named.insert(named.end(), {mismatch.rank_a, mismatch.rank_b});
  if (named.empty()) {
    for (const CommunicatorReport& communicator : report.communicators)
      named.insert(named.end(), communicator.late_ranks.begin(), communicator.late_ranks.end());
  }
  std::sort(named.begin(), named.end());
  named.erase(std::unique(named.begin(), named.end()), named.end());
  return named;
}

std::string describe_ending(const RankEnding& ending) {
  // One that was stopped and woken again has waited in vain too; that it was stopped is the cause.
  const bool own_error = ending.ending == Ending::error && !blames_others(ending);
  if (!own_error && ending.pause_seconds > 0) return fmt::format("stood still for {:.1f} s", ending.pause_seconds);
  if (ending.ending == Ending::error || ending.ending == Ending::watchdog)
    return fmt::format("ended with code {}{}{}", ending.exit_code, ending.reason.empty() ? "" : ": ", ending.reason);
  if (ending.ending == Ending::orderly) return "ended in order";
  if (ending.silent_seconds > kSilentBy)
    return fmt::format(
        "was killed or stopped, or its node was lost, {:.1f} s before the last sign of life of the others",
        ending.silent_seconds);
  return "was killed";
}

}  // namespace

RankRecord read_flight_file(const std::filesystem::path& path) {
  FlightFile file;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw FlightFileError(fmt::format("{}: cannot be read", path.string()));
  stream.read(reinterpret_cast<char*>(&file), sizeof(file));
  if (stream.gcount() != sizeof(file)) {
    throw FlightFileError(
        fmt::format("{}: has {} bytes where a flight record has {}", path.string(), stream.gcount(), sizeof(file)));
  }
  const FlightHeader& header = file.header;
  if (header.magic != kFlightMagic || header.slots != kFlightSlots || header.slot_bytes != sizeof(FlightSlot))
    throw FlightFileError(fmt::format("{}: is no flight record of this version", path.string()));
  if (header.size < 1 || header.size > kMostRanks || header.rank < 0 || header.rank >= header.size ||
      header.phase > Phase::shutdown || header.ending > Ending::watchdog)
    throw FlightFileError(fmt::format("{}: has a damaged header", path.string()));

  RankRecord record{.header = header, .alive = is_written(path, header)};
  for (std::size_t place = 0; place < kFlightSlots; ++place) {
    const FlightSlot& slot = file.slots[place];
    if (slot.ticket == 0 && slot.sequence == 0) continue;  // never used
    if (makes_sense(slot, place, header)) {
      record.slots.push_back(slot);
    } else {
      ++record.torn;
    }
  }
  std::sort(record.slots.begin(), record.slots.end(),
            [](const FlightSlot& a, const FlightSlot& b) { return a.ticket < b.ticket; });
  return record;
}

namespace {

std::optional<FlightReport> merge_now(const std::filesystem::path& folder) {
  FlightReport report;
  std::vector<RankRecord> records;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("rank-") || !name.ends_with(".bin") || name.ends_with(".previous.bin")) continue;
    try {
      records.push_back(read_flight_file(entry.path()));
    } catch (const FlightFileError& refused) {
      report.unreadable.emplace_back(refused.what());
    }
  }
  std::sort(report.unreadable.begin(), report.unreadable.end());
  if (records.empty() && report.unreadable.empty()) return std::nullopt;
  if (records.empty()) return report;

  // Ranks of an earlier, larger start of the run are of no interest.
  std::uint64_t newest_start = 0;
  for (const RankRecord& record : records) newest_start = std::max(newest_start, record.header.start_id);
  std::erase_if(records, [&](const RankRecord& record) { return record.header.start_id != newest_start; });
  std::sort(records.begin(), records.end(),
            [](const RankRecord& a, const RankRecord& b) { return a.header.rank < b.header.rank; });

  report.ranks = records.front().header.size;
  std::int64_t newest_pulse = 0;
  for (const RankRecord& record : records) newest_pulse = std::max(newest_pulse, record.header.pulse_wall_ns);
  for (const RankRecord& record : records) report.endings.push_back(ending_of(record, newest_pulse));
  for (int rank = 0; rank < report.ranks; ++rank) {
    const auto has_rank = [&](const RankRecord& record) { return record.header.rank == rank; };
    if (std::none_of(records.begin(), records.end(), has_rank)) report.missing.push_back(rank);
  }
  for (std::size_t track = 0; track < kFlightTracks; ++track) {
    CommunicatorReport communicator{.name = text_of(records.front().header.tracks[track].name)};
    if (communicator.name.empty()) continue;
    for (const RankRecord& record : records) communicator.positions.push_back(position_of(record, track));
    find_late(communicator, track, records);
    if (auto mismatch = find_mismatch(communicator.name, track, records)) report.mismatches.push_back(*mismatch);
    report.communicators.push_back(std::move(communicator));
  }
  report.named_ranks = choose_named_ranks(report);
  return report;
}

/// Some ranks are gone or leaving, others still live.
bool is_ending(const FlightReport& report) {
  const auto is_alive = [](const RankEnding& ending) { return ending.alive; };
  const auto leaves = [](const RankEnding& ending) { return !ending.alive || ending.ending != Ending::running; };
  return std::any_of(report.endings.begin(), report.endings.end(), is_alive) &&
         std::any_of(report.endings.begin(), report.endings.end(), leaves);
}

}  // namespace

std::optional<FlightReport> merge_flight(const std::filesystem::path& folder) {
  const auto deadline = std::chrono::steady_clock::now() + kEndsTogetherWithin;
  while (true) {
    std::optional<FlightReport> report = merge_now(folder);
    if (!report || !is_ending(*report) || std::chrono::steady_clock::now() > deadline) return report;
    std::this_thread::sleep_for(kLookAgain);
  }
}

bool FlightReport::ended_badly() const {
  const auto is_alive = [](const RankEnding& ending) { return ending.alive; };
  const auto is_orderly = [](const RankEnding& ending) { return ending.ending == Ending::orderly; };
  if (std::any_of(endings.begin(), endings.end(), is_alive)) return false;
  return !missing.empty() || !std::all_of(endings.begin(), endings.end(), is_orderly);
}

std::string FlightReport::summary() const {
  std::vector<std::string> parts;
  for (const int rank : named_ranks) {
    const auto ending = std::find_if(endings.begin(), endings.end(), [&](const auto& e) { return e.rank == rank; });
    parts.push_back(ending == endings.end()
                        ? fmt::format("rank {} left no record", rank)
                        : fmt::format("rank {} ({}, pid {}) {}, in phase {}", rank, ending->host, ending->pid,
                                      describe_ending(*ending), name_of(ending->phase)));
  }
  for (const Mismatch& m : mismatches) {
    parts.push_back(fmt::format("#{} of {} was {} on rank {} and {} on rank {}", m.sequence, m.communicator,
                                m.operation_a, m.rank_a, m.operation_b, m.rank_b));
  }
  for (const CommunicatorReport& c : communicators) {
    if (c.sequence == 0) continue;
    const std::string operation =
        fmt::format("#{} of {}{}{}", c.sequence, c.name, c.operation.empty() ? "" : ", " + c.operation,
                    c.phase.empty() ? "" : ", in phase " + c.phase);
    parts.push_back(c.late_ranks.empty()
                        ? "unfinished at " + operation
                        : fmt::format("late at {}: rank {}", operation, fmt::join(c.late_ranks, ", ")));
  }
  return parts.empty() ? "all ranks were ended together, by the launcher or the scheduler"
                       : fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace perrin::comm
