// A fault of NCCL on one rank ends all processes of the run within their deadlines, and the merged flight records say
// in which operation.
#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>

#include "comm/flight_report.hpp"
#include "comm/world.hpp"
#include "tests/comm/fault_runs.hpp"
#include "tests/comm/launched.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;
using test::Outcome;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

/// A folder of flight records, and ranks that reduce over NCCL on the host: after a fault they have a deadline of 3 s,
/// and 10 s to end.
class NcclProcessFaults : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "perrin-nccl-flight-" + std::to_string(::getpid());
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static int ranks() { return GetParam(); }
  /// @param plan  fault:rank:after_operations
  Outcome fly(const std::string& plan) const {
    const Outcome outcome = test::run("PERRIN_HOST_GPU_FAULT=" + plan + " " +
                                      test::launched(ranks(), FAULT_PROGRAM_ON_HOST, "nccl " + folder_));
    const auto end = std::chrono::system_clock::now().time_since_epoch();
    EXPECT_EQ(outcome.exit_code, kCommExitCode) << outcome.output;
    EXPECT_LT(std::min<std::chrono::nanoseconds>(outcome.time, end - last_submission()), 13s) << outcome.output;
    return outcome;
  }
  /// When rank 0 submitted its last operation: that is the one that the fault meets. 0 if there was none.
  std::chrono::nanoseconds last_submission() const {
    std::int64_t last = 0;
    for (const FlightSlot& slot : read_flight_file(std::filesystem::path(folder_) / "rank-0000.bin").slots)
      last = std::max(last, slot.enqueued_wall_ns);
    return std::chrono::nanoseconds(last);
  }
  FlightReport report() const {
    const auto report = merge_flight(folder_);
    if (!report) throw std::runtime_error("no flight records in " + folder_);
    EXPECT_TRUE(report->ended_badly());
    EXPECT_EQ(report->missing.size(), 0U);
    return *report;
  }
  /// What the report says of the operation that did not end, or ended on some ranks only.
  static testing::Matcher<std::string> unfinished_at(int operation) {
    return AllOf(
        HasSubstr("at #" + std::to_string(operation) + " of gradients/nccl, all_reduce of 400000 bytes float32"),
        HasSubstr("in phase step"));
  }

 private:
  std::string folder_;
};

TEST_P(NcclProcessFaults, PeerThatNeverJoinsEndsAllAtTheStart) {
  EXPECT_THAT(fly("never_joins:1:0").output, AllOf(HasSubstr("start"), HasSubstr("a rank is missing")));
  EXPECT_THAT(report().summary(), Not(HasSubstr("gradients/nccl")));
}

TEST_P(NcclProcessFaults, InitThatFailsOnOneRankEndsAllAtTheStart) {
  EXPECT_THAT(fly("init_fails:1:0").output, HasSubstr("rank 1: start: NCCL reports: unhandled system error"));
}

TEST_P(NcclProcessFaults, CollectiveThatNeverCompletesEndsAllByItsNumber) {
  EXPECT_THAT(fly("never_completes:1:5").output, HasSubstr("all_reduce #6 (400000 bytes): not done within 3000 ms"));
  EXPECT_THAT(report().summary(), unfinished_at(6));
}

TEST_P(NcclProcessFaults, AsynchronousErrorEndsAllByItsNumber) {
  EXPECT_THAT(fly("asynchronous_error:1:5").output, HasSubstr("rank 1: all_reduce #6 (400000 bytes): NCCL reports: "));
  EXPECT_THAT(report().summary(), unfinished_at(6));
}

TEST_P(NcclProcessFaults, AbortThatHangsEndsAllByItsNumber) {
  EXPECT_THAT(fly("abort_hangs:1:5").output, HasSubstr("all_reduce #6 (400000 bytes): not done within 3000 ms"));
  EXPECT_THAT(report().summary(), unfinished_at(6));
}

TEST_P(NcclProcessFaults, AtRandomMomentsNeverHang) {
  std::mt19937 random(static_cast<unsigned>(ranks()));
  for (int run = 0; run < test::fault_runs(3); ++run) {
    const std::string fault =
        std::array{"never_joins", "init_fails", "never_completes", "asynchronous_error", "abort_hangs"}[random() % 5];
    const auto rank = static_cast<int>(random() % static_cast<unsigned>(ranks()));
    const auto after = static_cast<int>(random() % 200);
    SCOPED_TRACE(fault + ":" + std::to_string(rank) + ":" + std::to_string(after));
    const Outcome outcome = fly(fault + ":" + std::to_string(rank) + ":" + std::to_string(after));
    if (fault == "never_joins" || fault == "init_fails") {
      EXPECT_THAT(outcome.output, HasSubstr("start: NCCL"));
    } else {
      EXPECT_THAT(report().summary(), unfinished_at(after + 1)) << outcome.output;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclProcessFaults, testing::Values(2, 4));

}  // namespace
}  // namespace perrin::comm
