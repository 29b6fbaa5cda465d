#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <vector>

#include "comm/world.hpp"
#include "data/batch_loader.hpp"
#include "trainer/telemetry/activity_clock.hpp"
#include "trainer/telemetry/rank_trace.hpp"
#include "trainer/telemetry/trace_steps.hpp"

namespace perrin::trainer {

/// Records the timeline of some steps of a training. Costs nothing before begin() and after end().
class TraceRecorder {
 public:
  /// @param clock  of the thread that trains
  TraceRecorder(std::filesystem::path folder, comm::World& world, ActivityClock& clock);

  /// Compares the clocks, then begins. Collective. @throws comm::CommError
  void begin();
  bool running() const noexcept { return running_.load(std::memory_order_relaxed); }
  /// Ends, and writes as write_timeline does. Collective.
  /// @param steps  what was recorded
  /// @throws comm::CommError
  void end(TraceSteps steps);

  /// For the loader, from its threads.
  void batch_read(const data::Slice& slice, std::chrono::steady_clock::time_point begun,
                  std::chrono::steady_clock::time_point ended);

 private:
  RankTrace take();

  std::filesystem::path folder_;
  comm::World& world_;
  ActivityClock& clock_;
  TimeBase time_;
  std::atomic<bool> running_{false};
  std::mutex mutex_;
  std::vector<ReadSpan> reads_;
};

}  // namespace perrin::trainer
