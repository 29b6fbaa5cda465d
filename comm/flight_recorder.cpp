#include "comm/flight_recorder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

namespace perrin::comm {
namespace {

constexpr std::chrono::milliseconds kPulse{100};
constexpr std::chrono::nanoseconds kPause{std::chrono::seconds(1)};

std::int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::int64_t wall_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

/// Copies as much as fits; the rest is zero, so that the last byte always ends the text.
template <std::size_t N>
void put_text(std::array<char, N>& target, std::string_view text) {
  target.fill('\0');
  std::memcpy(target.data(), text.data(), std::min(text.size(), N - 1));
}

std::string system_error(const std::string& what) {
  return what + ": " + std::error_code(errno, std::generic_category()).message();
}

/// A new file of the ring's size, mapped. @return nullptr with `reason`
FlightFile* map_new_file(const std::filesystem::path& path, int& descriptor, std::string& reason) {
  descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    reason = system_error("cannot make " + path.string());
    return nullptr;
  }
  // Reserved at once: a store into a hole of a full disk would end the process by SIGBUS.
  void* address = MAP_FAILED;
  if (const int error = ::posix_fallocate(descriptor, 0, sizeof(FlightFile)); error != 0) {
    errno = error;
  } else {
    address = ::mmap(nullptr, sizeof(FlightFile), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  }
  if (address == MAP_FAILED) reason = system_error("cannot map " + path.string());
  if (address == MAP_FAILED) return nullptr;
  ::flock(descriptor, LOCK_EX | LOCK_NB);  // where the file system has no locks readers look at the pulse
  return static_cast<FlightFile*>(address);
}

}  // namespace

std::string_view name_of(Phase phase) noexcept {
  constexpr std::array kNames = {"start", "step", "evaluation", "checkpoint", "sampling", "shutdown"};
  return kNames[static_cast<std::size_t>(phase)];
}

std::string_view name_of(CollectiveKind kind) noexcept {
  constexpr std::array kNames = {"all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "barrier"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::string describe(const Collective& collective) {
  if (collective.kind == CollectiveKind::barrier) return "barrier";
  std::string text =
      fmt::format("{} of {} bytes {}", name_of(collective.kind), collective.bytes, name_of(collective.type));
  if (collective.kind == CollectiveKind::all_reduce || collective.kind == CollectiveKind::reduce_scatter)
    text += fmt::format(" ({})", name_of(static_cast<ReduceOp>(collective.detail)));
  if (collective.kind == CollectiveKind::broadcast) text += fmt::format(" from rank {}", collective.detail);
  return text;
}

std::string_view name_of(CollectiveState state) noexcept {
  constexpr std::array kNames = {"enqueued", "started", "completed", "failed"};
  return kNames[static_cast<std::size_t>(state)];
}

std::string_view name_of(Ending ending) noexcept {
  constexpr std::array kNames = {"running", "orderly", "error", "watchdog"};
  return kNames[static_cast<std::size_t>(ending)];
}

std::string flight_file_name(int rank) { return fmt::format("rank-{:04}.bin", rank); }

FlightRecorder::FlightRecorder() : memory_(std::make_unique<FlightFile>()), file_(memory_.get()) {
  FlightHeader& header = file_->header;
  header.magic = kFlightMagic;
  header.slots = kFlightSlots;
  header.slot_bytes = sizeof(FlightSlot);
  header.pid = ::getpid();
  header.phase_since_wall_ns = wall_ns();
  ::gethostname(header.host.data(), header.host.size() - 1);
}

FlightRecorder::~FlightRecorder() {
  {
    const std::lock_guard lock(pulse_mutex_);
    closing_ = true;
  }
  pulse_over_.notify_one();
  if (pulse_.joinable()) pulse_.join();
  if (file_ != memory_.get()) ::munmap(file_, sizeof(FlightFile));
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::string FlightRecorder::record_in(const std::filesystem::path& folder, int rank, int size, std::uint64_t start_id) {
  if (pulse_.joinable()) throw std::logic_error("this flight recorder has its file already");
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const std::filesystem::path path = folder / flight_file_name(rank);
  std::filesystem::rename(path, std::filesystem::path(path).replace_extension(".previous.bin"), error);  // if any
  std::string reason;
  FlightFile* const mapped = map_new_file(path, descriptor_, reason);
  if (mapped == nullptr) return reason;
  {
    const std::lock_guard lock(mutex_);
    memory_->header.rank = rank;
    memory_->header.size = size;
    memory_->header.start_id = start_id;
    memory_->header.pulse_wall_ns = wall_ns();
    std::memcpy(mapped, memory_.get(), sizeof(FlightFile));
    file_ = mapped;
  }
  pulse_ = std::thread([this] { beat(); });
  return "";
}

int FlightRecorder::add_track(std::string_view name) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < kFlightTracks; ++i) {
    if (file_->header.tracks[i].name[0] != '\0') continue;
    put_text(file_->header.tracks[i].name, name);
    return static_cast<int>(i);
  }
  throw std::length_error("a flight recorder has no room for the communicator " + std::string(name));
}

void FlightRecorder::enter(Phase phase, std::chrono::milliseconds deadline) noexcept {
  deadline_ms_.store(deadline.count());
  const std::lock_guard lock(mutex_);
  if (file_->header.phase == phase) return;
  file_->header.phase = phase;
  file_->header.phase_since_wall_ns = wall_ns();
}

void FlightRecorder::end(Ending ending, int exit_code, std::string_view reason) noexcept {
  const std::lock_guard lock(mutex_);
  if (file_->header.ending != Ending::running) return;
  put_text(file_->header.reason, reason);
  file_->header.exit_code = exit_code;
  file_->header.ending = ending;
}

std::uint64_t FlightRecorder::enqueued(int track, std::uint64_t sequence, const Collective& collective) noexcept {
  const auto index = static_cast<std::size_t>(track);
  const std::int64_t wall = wall_ns();
  const std::int64_t now = monotonic_ns();
  const std::lock_guard lock(mutex_);
  FlightHeader& header = file_->header;
  const std::uint64_t ticket = header.recorded + 1;
  FlightSlot& slot = file_->slots[header.recorded % kFlightSlots];
  // A process killed between these lines leaves ticket 0, which no reader believes. The fences keep the compiler's
  // hands off the order; a killed process's stores reach the page in the order in which it made them.
  slot.ticket = 0;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  slot.sequence = sequence;
  slot.bytes = collective.bytes;
  slot.enqueued_wall_ns = wall;
  slot.enqueued_ns = now;
  slot.started_ns = 0;
  slot.ended_ns = 0;
  slot.detail = collective.detail;
  slot.track = static_cast<std::uint8_t>(track);
  slot.kind = collective.kind;
  slot.type = static_cast<std::uint8_t>(collective.type);
  slot.phase = header.phase;
  slot.state = CollectiveState::enqueued;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  slot.ticket = ticket;
  header.recorded = ticket;
  header.tracks[index].enqueued = sequence;
  counts_[index].enqueued.store(sequence, std::memory_order_release);
  return ticket;
}

void FlightRecorder::started(std::uint64_t ticket) noexcept {
  const std::int64_t now = monotonic_ns();
  const std::lock_guard lock(mutex_);
  FlightSlot* const slot = slot_of(ticket);
  if (slot == nullptr) return;
  slot->started_ns = now;
  slot->state = CollectiveState::started;
}

void FlightRecorder::completed(int track, std::uint64_t sequence, std::uint64_t ticket) noexcept {
  finish(track, sequence, ticket, CollectiveState::completed);
}

void FlightRecorder::failed(int track, std::uint64_t sequence, std::uint64_t ticket) noexcept {
  finish(track, sequence, ticket, CollectiveState::failed);
}

void FlightRecorder::finish(int track, std::uint64_t sequence, std::uint64_t ticket, CollectiveState state) noexcept {
  const auto index = static_cast<std::size_t>(track);
  const std::int64_t now = monotonic_ns();
  const std::lock_guard lock(mutex_);
  FlightTrackSummary& summary = file_->header.tracks[index];
  if (state == CollectiveState::failed && summary.failed == 0) summary.failed = sequence;
  summary.finished = std::max(summary.finished, sequence);  // a device's ends may be noticed out of order
  counts_[index].finished.store(summary.finished, std::memory_order_release);
  FlightSlot* const slot = slot_of(ticket);
  if (slot == nullptr) return;
  slot->ended_ns = now;
  slot->state = state;
}

FlightSlot* FlightRecorder::slot_of(std::uint64_t ticket) noexcept {
  FlightSlot& slot = file_->slots[(ticket - 1) % kFlightSlots];
  return slot.ticket == ticket ? &slot : nullptr;  // else overwritten since
}

FlightRecorder::Heartbeat FlightRecorder::heartbeat(std::size_t track) const noexcept {
  // finished first: what is enqueued meanwhile makes it look busy, never idle.
  const std::uint64_t finished = counts_[track].finished.load(std::memory_order_acquire);
  return {counts_[track].enqueued.load(std::memory_order_acquire), finished};
}

std::string FlightRecorder::describe_oldest(std::size_t track) const {
  const std::uint64_t sequence = heartbeat(track).finished + 1;
  const std::lock_guard lock(mutex_);
  const char* const name = file_->header.tracks[track].name.data();
  for (const FlightSlot& slot : file_->slots) {
    if (slot.ticket == 0 || slot.track != track || slot.sequence != sequence) continue;
    return fmt::format("{} #{} of {}, {} bytes {}, in phase {}", name_of(slot.kind), sequence, name, slot.bytes,
                       name_of(static_cast<DataType>(slot.type)), name_of(slot.phase));
  }
  return fmt::format("operation #{} of {}", sequence, name);
}

void FlightRecorder::beat() {
  std::int64_t before = monotonic_ns();
  std::unique_lock lock(pulse_mutex_);
  while (!pulse_over_.wait_for(lock, kPulse, [this] { return closing_; })) {
    const std::int64_t now = monotonic_ns();
    const std::lock_guard file_lock(mutex_);
    file_->header.pulse_wall_ns = wall_ns();
    if (now - before > kPause.count()) {
      file_->header.last_pause_ns = now - before;
      file_->header.last_pause_end_wall_ns = file_->header.pulse_wall_ns;
    }
    before = now;
  }
}

}  // namespace perrin::comm
