#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "trainer/telemetry/progress_line.hpp"

namespace perrin::launch {

/// How fast something goes, from the counts of the last half minute: what an earlier run has done already, and is only
/// looked at, is soon forgotten.
class Pace {
 public:
  void note(double seconds, std::uint64_t done);
  /// A second; nothing until two counts differ.
  std::optional<double> rate() const;

 private:
  std::deque<std::pair<double, std::uint64_t>> notes_;
};

/// What progress is counted in: "images" by the one, "MB" by the million bytes.
struct ProgressUnit {
  std::string name;
  double size = 1;
};

/// "1200/60000 images (2 %)  4000.0 images/s  0:15 left".
std::string format_work(std::uint64_t done, std::uint64_t total, std::optional<double> rate, const ProgressUnit& unit);

/// Shows how far work has come, on one line where a person watches, twice a minute in a log.
class WorkProgress {
 public:
  explicit WorkProgress(ProgressUnit unit) : unit_(std::move(unit)) {}

  /// May be called as often as there is news.
  void show(std::uint64_t done, std::uint64_t total);

 private:
  using Clock = std::chrono::steady_clock;

  ProgressUnit unit_;
  Clock::time_point begun_ = Clock::now(), shown_ = begun_;
  Pace pace_;
  trainer::ProgressLine line_;
};

}  // namespace perrin::launch
