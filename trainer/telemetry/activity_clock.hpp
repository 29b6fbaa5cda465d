#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace perrin::trainer {

/// What the thread that trains does; up to optimizer within a step, the others between steps.
enum class Activity : std::uint8_t {
  load,       ///< waits for its batch
  forward,    ///< noise and forward pass
  backward,   ///< buckets leave meanwhile
  losses,     ///< copied from the device, which ends its work on the backward pass
  agreement,  ///< on losses, with all ranks: waits for the slowest
  buckets,    ///< waits for the gradients of the other ranks
  optimizer,  ///< clip, Adam, EMA
  report,
  evaluation,
  snapshot,
  checkpoint,
  sampling
};
inline constexpr std::size_t kActivities = static_cast<std::size_t>(Activity::sampling) + 1;

constexpr bool within_step(Activity activity) noexcept { return activity <= Activity::optimizer; }
std::string_view name_of(Activity activity) noexcept;

/// One stretch of an activity, by comm::steady_ns().
struct ActivitySpan {
  Activity activity = Activity::load;
  std::int64_t step = 0;  ///< from 1; between steps the one before
  std::int64_t begun_ns = 0, ended_ns = 0;
};

/// How long one thread spends on what: one reading of the clock for each change, whether spans are kept or not.
class ActivityClock {
 public:
  void begin_step(std::int64_t step) { step_ = step; }
  /// Ends the activity before, and begins this one; goes on with it where it is the same.
  void enter(Activity activity);
  /// Ends the activity before; what follows is none.
  void leave();

  /// Seconds since restart(), of activities that have ended.
  double seconds(Activity activity) const { return seconds_[static_cast<std::size_t>(activity)]; }
  double step_seconds() const;
  void restart() { seconds_ = {}; }

  /// From now on every span is kept as it ends; false: no more.
  void keep_spans(bool keep) { keeping_ = keep; }
  std::vector<ActivitySpan> take_spans();

 private:
  void end_at(std::int64_t now_ns);

  std::array<double, kActivities> seconds_{};
  std::int64_t step_ = 0;
  Activity current_ = Activity::load;
  std::int64_t begun_ns_ = 0;  // 0: no activity
  std::int64_t begun_step_ = 0;
  bool keeping_ = false;
  std::vector<ActivitySpan> spans_;
};

}  // namespace perrin::trainer
