#pragma once

#include <chrono>

namespace perrin::comm {

/// Pauses between polls that found nothing: polls on for a while, then sleeps, each time twice as long up to a bound.
/// A poll of MPI takes 1 to 2 us, so a longest pause of 200 us keeps an idle poller at about 1 % of a core.
/// It never yields: on a busy core a thread that yields waits a whole turn of all the others, one that wakes up runs
/// soon (4 ranks on 2 cores beside 10 busy processes, 320 rounds: 0.4 s in place of 16 s).
class BackOff {
 public:
  BackOff(std::chrono::microseconds spin_for, std::chrono::microseconds longest_sleep) noexcept;

  /// Starts over, after a poll that moved something.
  void reset() noexcept;
  void pause() noexcept;

 private:
  using Clock = std::chrono::steady_clock;
  std::chrono::microseconds spin_for_;
  std::chrono::microseconds longest_sleep_;
  std::chrono::microseconds next_sleep_;
  Clock::time_point spin_until_;
};

}  // namespace perrin::comm
