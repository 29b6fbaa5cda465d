#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "trainer/telemetry/activity_clock.hpp"

namespace perrin::trainer {

/// What one rank did with its time in the steps of a window, in seconds.
struct RankTimes {
  double images = 0;   ///< that it put through the network
  double load = 0;     ///< until its batches were there
  double compute = 0;  ///< without the other two
  double wait = 0;     ///< for other ranks: agreement on losses, gradients

  /// Images for each second that it did not wait for others.
  double speed() const { return images / (load + compute); }
};

RankTimes times_of(const ActivityClock& clock, double images);

/// Of every rank. Collective. @throws comm::CommError
std::vector<RankTimes> gather_times(comm::Communicator& control, const RankTimes& own);

/// Finds ranks that all others wait for: those whose speed is below kSlow of the fastest rank's. It judges once the
/// windows since the last judgement make kLeastSteps steps and kLeastSeconds of every rank, so that one hiccup is none.
class StragglerWatch {
 public:
  static constexpr double kSlow = 0.7;
  static constexpr std::int64_t kLeastSteps = 10;
  static constexpr double kLeastSeconds = 1;

  /// @param hosts  of the ranks
  explicit StragglerWatch(std::vector<std::string> hosts);

  /// Takes in a window. @return a sentence for each rank that has become slow, or is slow no more
  std::vector<std::string> observe(const std::vector<RankTimes>& window, std::int64_t steps);
  /// As judged last.
  const std::set<int>& slow_ranks() const { return slow_; }

 private:
  std::string name_of(int rank) const;

  std::vector<std::string> hosts_;
  std::vector<RankTimes> sums_;
  std::int64_t steps_ = 0;
  std::set<int> slow_;
};

}  // namespace perrin::trainer
