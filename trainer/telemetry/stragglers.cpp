#include "trainer/telemetry/stragglers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace perrin::trainer {

RankTimes times_of(const ActivityClock& clock, double images) {
  const double load = clock.seconds(Activity::load);
  const double wait = clock.seconds(Activity::agreement) + clock.seconds(Activity::buckets);
  return {.images = images, .load = load, .compute = clock.step_seconds() - load - wait, .wait = wait};
}

std::vector<RankTimes> gather_times(comm::Communicator& control, const RankTimes& own) {
  const std::array<double, 4> sent = {own.images, own.load, own.compute, own.wait};
  std::vector<double> all(sent.size() * static_cast<std::size_t>(control.size()));
  control.all_gather(std::span<const double>(sent), std::span<double>(all)).wait();
  std::vector<RankTimes> times;
  for (std::size_t i = 0; i < all.size(); i += sent.size())
    times.push_back({.images = all[i], .load = all[i + 1], .compute = all[i + 2], .wait = all[i + 3]});
  return times;
}

StragglerWatch::StragglerWatch(std::vector<std::string> hosts) : hosts_(std::move(hosts)), sums_(hosts_.size()) {}

std::vector<std::string> StragglerWatch::observe(const std::vector<RankTimes>& window, std::int64_t steps) {
  steps_ += steps;
  bool long_enough = steps_ >= kLeastSteps;
  for (std::size_t r = 0; r < sums_.size(); ++r) {
    sums_[r].images += window.at(r).images;
    sums_[r].load += window[r].load;
    sums_[r].compute += window[r].compute;
    sums_[r].wait += window[r].wait;
    long_enough = long_enough && sums_[r].load + sums_[r].compute + sums_[r].wait >= kLeastSeconds;
  }
  if (!long_enough) return {};

  const std::vector<RankTimes> times = std::exchange(sums_, std::vector<RankTimes>(hosts_.size()));
  const std::int64_t judged_steps = std::exchange(steps_, 0);
  const auto best = std::max_element(times.begin(), times.end(),
                                     [](const RankTimes& a, const RankTimes& b) { return a.speed() < b.speed(); });
  std::vector<std::string> sentences;
  for (int rank = 0; std::cmp_less(rank, times.size()); ++rank) {
    const RankTimes& own = times[static_cast<std::size_t>(rank)];
    const double ratio = own.speed() / best->speed();
    if (ratio >= kSlow) {
      if (slow_.erase(rank) > 0) sentences.push_back(fmt::format("{} keeps up with the others again", name_of(rank)));
    } else if (slow_.insert(rank).second) {
      sentences.push_back(fmt::format(
          "{} is slow, and all ranks wait for it: {:.2f} of the speed of {} over the last {} steps ({:.1f} s "
          "loading, {:.1f} s computing, {:.1f} s waiting for others); look at the load, clock and temperature of its "
          "processor, and at its storage",
          name_of(rank), ratio, name_of(static_cast<int>(best - times.begin())), judged_steps, own.load, own.compute,
          own.wait));
    }
  }
  return sentences;
}

std::string StragglerWatch::name_of(int rank) const {
  return fmt::format("rank {} ({})", rank, hosts_[static_cast<std::size_t>(rank)]);
}

}  // namespace perrin::trainer
