#pragma once

#include <chrono>
#include <cstdint>
#include <limits>

#include "trainer/checkpoint/checkpoint_writer.hpp"
#include "trainer/config.hpp"

namespace perrin::trainer {

/// When a checkpoint is to be made, and what follows from one that failed. Steps and failures are the same on every
/// rank; what depends on a clock is for rank 0 to ask and for all to agree on (Vote::checkpoint).
class CheckpointSchedule {
 public:
  using Clock = std::chrono::steady_clock;

  explicit CheckpointSchedule(const CheckpointConfig& config) : config_(config) {}

  /// At multiples of checkpoint.every.
  bool due_by_step(std::int64_t step) const { return step % config_.every == 0; }
  /// Of rank 0: checkpoint.every_minutes are over, or the time has come to try again.
  bool due_by_clock() const;
  /// Of rank 0: the last one took less than checkpoint.grace_seconds.
  bool is_quick() const { return last_seconds_ < config_.grace_seconds; }

  void begun() { begun_ = Clock::now(); }
  /// @throws RunError once checkpoint.most_failures in a row have failed
  void ended(const WriteOutcome& outcome);

 private:
  CheckpointConfig config_;
  Clock::time_point begun_ = Clock::now();
  std::int64_t failures_ = 0;  // in a row
  double last_seconds_ = std::numeric_limits<double>::infinity();
};

}  // namespace perrin::trainer
