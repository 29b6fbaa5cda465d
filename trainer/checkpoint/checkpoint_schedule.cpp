#include "trainer/checkpoint/checkpoint_schedule.hpp"

#include <fmt/format.h>

#include "trainer/run_error.hpp"

namespace perrin::trainer {
namespace {

constexpr std::chrono::seconds kTryAgain{30};

}  // namespace

bool CheckpointSchedule::due_by_clock() const {
  const auto since = Clock::now() - begun_;
  if (failures_ > 0) return since >= kTryAgain;
  return config_.every_minutes > 0 && since >= std::chrono::duration<double, std::ratio<60>>(config_.every_minutes);
}

void CheckpointSchedule::ended(const WriteOutcome& outcome) {
  if (outcome.published) {
    failures_ = 0;
    last_seconds_ = outcome.seconds;
    return;
  }
  if (++failures_ >= config_.most_failures)
    throw RunError(fmt::format(
        "{} checkpoints in a row could not be written, the last one {}; free space or mend the file system, then give "
        "the same command: it goes on from the newest checkpoint",
        failures_, outcome.path.string()));
}

}  // namespace perrin::trainer
