#pragma once

#include <chrono>

namespace perrin::comm {

/// Pauses between polls that found nothing: yields for a while, then sleeps, each time twice as long up to a bound.
/// A poll of MPI takes 1 to 2 us, so a longest pause of 200 us keeps an idle poller at about 1 % of a core.
class BackOff {
 public:
  BackOff(std::chrono::microseconds yield_for, std::chrono::microseconds longest_sleep) noexcept;

  /// Starts over, after a poll that moved something.
  void reset() noexcept;
  void pause() noexcept;
  /// One sleep of the longest length.
  void rest() const noexcept;

 private:
  using Clock = std::chrono::steady_clock;
  std::chrono::microseconds yield_for_;
  std::chrono::microseconds longest_sleep_;
  std::chrono::microseconds next_sleep_;
  Clock::time_point yield_until_;
};

}  // namespace perrin::comm
