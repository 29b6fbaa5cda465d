#include "trainer/telemetry/activity_clock.hpp"

#include <utility>

#include "comm/steady_clock.hpp"

namespace perrin::trainer {

std::string_view name_of(Activity activity) noexcept {
  constexpr std::array<std::string_view, kActivities> kNames = {
      "load",   "noise and forward", "backward", "read losses", "agree on losses", "wait for buckets", "optimizer",
      "report", "evaluation",        "snapshot", "checkpoint",  "sampling"};
  return kNames[static_cast<std::size_t>(activity)];
}

void ActivityClock::enter(Activity activity) {
  if (begun_ns_ != 0 && current_ == activity) return;
  const std::int64_t now = comm::steady_ns();
  end_at(now);
  current_ = activity;
  begun_ns_ = now;
  begun_step_ = step_;
}

void ActivityClock::leave() {
  end_at(comm::steady_ns());
  begun_ns_ = 0;
}

void ActivityClock::end_at(std::int64_t now_ns) {
  if (begun_ns_ == 0) return;
  seconds_[static_cast<std::size_t>(current_)] += 1e-9 * static_cast<double>(now_ns - begun_ns_);
  if (keeping_) spans_.push_back({current_, begun_step_, begun_ns_, now_ns});
}

double ActivityClock::step_seconds() const {
  double sum = 0;
  for (std::size_t a = 0; a < kActivities; ++a)
    if (within_step(static_cast<Activity>(a))) sum += seconds_[a];
  return sum;
}

std::vector<ActivitySpan> ActivityClock::take_spans() { return std::exchange(spans_, {}); }

}  // namespace perrin::trainer
