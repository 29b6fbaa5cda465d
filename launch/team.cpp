#include "launch/team.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <exception>
#include <span>

#include "comm/comm_error.hpp"
#include "launch/rank_failure.hpp"
#include "trainer/deadlines.hpp"
#include "trainer/gather_texts.hpp"

namespace perrin::launch {
namespace {

using Clock = std::chrono::steady_clock;

/// Thrown where a rank learns, in the middle of its share, that another has failed.
class StoppedByAnother : public std::exception {};

/// One sum after the other of what the ranks have done, carried on beside their work: a rank joins the next one when it
/// reports. All ranks see the same sums, so that they agree on which is the last.
class Heartbeat {
 public:
  Heartbeat(comm::Communicator& control, const Team::Report& show) : control_(control), show_(show) {}

  /// @throws StoppedByAnother
  void beat(std::uint64_t done) {
    done_ = static_cast<std::int64_t>(done);
    if (!sum_.done()) return;
    take_sum();
    if (is_over()) throw StoppedByAnother();
    if (Clock::now() - last_ >= kInterval) submit(/*finished=*/false, /*failed=*/false);
  }

  /// Stays with the others until all have finished or one has failed.
  void end(bool failed) {
    for (take_sum(); !is_over(); take_sum()) submit(!failed, failed);
  }

 private:
  static constexpr std::chrono::milliseconds kInterval{100};

  void submit(bool finished, bool failed) {
    values_ = {done_, finished ? 1 : 0, failed ? 1 : 0};
    sum_ = control_.all_reduce(std::span<std::int64_t>(values_), comm::ReduceOp::sum);
    last_ = Clock::now();
    under_way_ = true;
  }

  void take_sum() {
    if (!under_way_) return;
    sum_.wait(trainer::kLongWork);
    under_way_ = false;
    const auto [done, finished, failed] = values_;
    finished_ = finished;
    failed_ = failed;
    if (control_.rank() == 0 && failed == 0) show_(static_cast<std::uint64_t>(done));
  }

  bool is_over() const { return failed_ > 0 || finished_ == control_.size(); }

  comm::Communicator& control_;
  const Team::Report& show_;
  std::int64_t done_ = 0;
  std::int64_t finished_ = 0, failed_ = 0;  // ranks
  std::array<std::int64_t, 3> values_{};    // of the sum under way
  Clock::time_point last_{};
  bool under_way_ = false;
  comm::Work sum_;
};

/// What an action throws. Communication that fails leaves nothing to agree by.
template <class Action>
std::optional<Failure> failure_of(const Action& action) {
  try {
    action();
    return std::nullopt;
  } catch (const comm::CommError&) {
    throw;
  } catch (const StoppedByAnother&) {
    return std::nullopt;
  } catch (...) {
    return describe_failure(std::current_exception());
  }
}

}  // namespace

data::Part Team::part() const noexcept {
  return {static_cast<std::uint64_t>(world_.rank()), static_cast<std::uint64_t>(world_.size())};
}

void Team::run(const std::function<void()>& action) {
  if (world_.size() == 1) return action();
  agree(failure_of(action));
}

std::string Team::from_root(const std::function<std::string()>& action) {
  std::string text;
  run([&] {
    if (is_root()) text = action();
  });
  return gather(text).front();
}

std::vector<std::string> Team::gather(const std::string& text) { return trainer::gather_texts(world_.control(), text); }

void Team::share(const std::function<void(const Report&)>& work, const Report& show) {
  if (world_.size() == 1) return work(show);
  Heartbeat heartbeat(world_.control(), show);
  const auto failure = failure_of([&] { work([&](std::uint64_t done) { heartbeat.beat(done); }); });
  heartbeat.end(failure.has_value());
  agree(failure);
}

void Team::agree(const std::optional<Failure>& failure) {
  const auto texts = gather(failure ? fmt::format("{} {}", static_cast<int>(failure->code), failure->message) : "");
  const auto failed = std::find_if(texts.begin(), texts.end(), [](const std::string& text) { return !text.empty(); });
  if (failed == texts.end()) return;
  int code = 0;
  const char* after = std::from_chars(failed->data(), failed->data() + failed->size(), code).ptr;
  std::string message(after + 1, failed->data() + failed->size());
  const auto rank = static_cast<std::size_t>(failed - texts.begin());
  if (rank != 0) {  // who speaks for all is rank 0, whose own name is put in front already
    message = fmt::format("rank {} ({}): {}", rank, world_.host_names()[rank], message);
  }
  throw RankFailure({static_cast<ExitCode>(code), message});
}

}  // namespace perrin::launch
