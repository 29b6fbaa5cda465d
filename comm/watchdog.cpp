#include "comm/watchdog.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <system_error>
#include <utility>

namespace perrin::comm {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kTick{100};
// A process that was stopped itself has not seen its peers be late: of one long pause only this much counts.
constexpr milliseconds kMostPerTick{500};
// What the last words may take: a full pipe, a file system that hangs.
constexpr milliseconds kLastWords{500};

[[noreturn]] void leave(const std::shared_ptr<FlightRecorder>& recorder, std::size_t track, milliseconds waited) {
  try {
    std::thread([recorder, track, waited] {
      const std::string line = fmt::format("{} has made no progress for {:.1f} s", recorder->describe_oldest(track),
                                           std::chrono::duration<double>(waited).count());
      recorder->end(Ending::watchdog, kWatchdogExitCode, line);
      const std::string text = fmt::format(
          "error: watchdog: {}; this process leaves with code {}. `perrin inspect RUN` names the late ranks\n", line,
          kWatchdogExitCode);
      [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
    }).detach();
    std::this_thread::sleep_for(kLastWords);
  } catch (const std::system_error&) {  // no thread to be had: then without words
  }
  ::_exit(kWatchdogExitCode);
}

}  // namespace

Watchdog::Watchdog(std::shared_ptr<FlightRecorder> recorder)
    : recorder_(std::move(recorder)), thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  over_.notify_one();
  thread_.join();
}

void Watchdog::run() {
  std::array<FlightRecorder::Heartbeat, kFlightTracks> seen{};
  std::array<milliseconds, kFlightTracks> without_progress{};
  auto before = Clock::now();
  std::unique_lock lock(mutex_);
  while (!over_.wait_for(lock, kTick, [this] { return closing_; })) {
    const auto now = Clock::now();
    const auto passed = std::min(std::chrono::duration_cast<milliseconds>(now - before), kMostPerTick);
    before = now;
    const milliseconds deadline = recorder_->deadline();
    for (std::size_t track = 0; track < kFlightTracks; ++track) {
      const auto heartbeat = recorder_->heartbeat(track);
      const bool idle = heartbeat.finished >= heartbeat.enqueued;
      const bool progress = heartbeat.finished != seen[track].finished;
      seen[track] = heartbeat;
      without_progress[track] =
          idle || progress || deadline.count() == 0 ? milliseconds(0) : without_progress[track] + passed;
      if (without_progress[track] > deadline + kGrace) leave(recorder_, track, without_progress[track]);
    }
  }
}

}  // namespace perrin::comm
