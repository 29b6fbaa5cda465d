#pragma once

#include <array>
#include <cstddef>

namespace perrin::trainer {

/// What one rank has to tell all others once a step.
enum class Vote : std::size_t {
  stop,                 ///< finish this step, make a checkpoint, leave
  budget,               ///< rank 0: likewise, train.max_minutes are over
  stop_soon,            ///< likewise, but this process will be killed within checkpoint.grace_seconds
  checkpoint_is_quick,  ///< rank 0: the last checkpoint took less than those
  checkpoint,           ///< rank 0: it is time for one
  written,              ///< this rank's thread is done with its part of a checkpoint, well or not
  published             ///< rank 0: its thread has given the checkpoint its name, or could not
};
inline constexpr std::size_t kVotes = static_cast<std::size_t>(Vote::published) + 1;

/// How many ranks cast each vote. They travel in the reduction of the step's losses, so that every decision that one
/// rank may want is taken by all in the same step.
class Votes {
 public:
  void cast(Vote vote) { counts_[static_cast<std::size_t>(vote)] = 1; }
  int count(Vote vote) const { return static_cast<int>(counts_[static_cast<std::size_t>(vote)]); }
  bool any(Vote vote) const { return count(vote) > 0; }

  /// To be summed over the ranks.
  std::array<double, kVotes>& counts() { return counts_; }

 private:
  std::array<double, kVotes> counts_{};
};

}  // namespace perrin::trainer
