#include "comm/clock_offset.hpp"

#include <algorithm>
#include <limits>
#include <span>
#include <vector>

namespace perrin::comm {
namespace {

constexpr int kRounds = 16;

}  // namespace

ClockOffset measure_clock_offset(Communicator& control, const std::function<std::int64_t()>& now) {
  if (control.size() == 1) return {};
  const auto ranks = static_cast<std::size_t>(control.size()), own = static_cast<std::size_t>(control.rank());
  std::int64_t least = std::numeric_limits<std::int64_t>::min(), most = std::numeric_limits<std::int64_t>::max();
  std::vector<std::int64_t> sent(ranks), received(ranks);
  const auto gather = [&](const std::int64_t& mine, std::vector<std::int64_t>& all) {
    control.all_gather(std::span<const std::int64_t>(&mine, 1), std::span<std::int64_t>(all)).wait();
  };
  for (int round = 0; round < kRounds; ++round) {
    gather(now(), sent);
    gather(now(), received);
    least = std::max(least, sent[0] - received[own]);
    most = std::min(most, received[0] - sent[own]);
  }
  if (own == 0) return {};
  return {.ahead_ns = least + (most - least) / 2, .error_ns = (most - least + 1) / 2};
}

}  // namespace perrin::comm
