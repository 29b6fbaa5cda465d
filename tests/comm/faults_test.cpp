// A fault on one rank ends the whole run within 10 s, with its exit code and its reason, and the flight records name
// it.
#include <gmock/gmock.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <string>

#include "comm/flight_report.hpp"
#include "comm/watchdog.hpp"
#include "comm/world.hpp"
#include "tests/comm/fault_runs.hpp"
#include "tests/comm/launched.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;
using test::fault_runs;
using test::launched;
using test::Outcome;
using test::run;
using testing::AllOf;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;

Outcome run_with_fault(const std::string& fault, int ranks = 4) { return run(launched(ranks, FAULT_PROGRAM, fault)); }

/// A folder of flight records.
class Flight : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "perrin-flight-" + std::to_string(::getpid());
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Outcome fly(const std::string& fault, int ranks, const std::string& moment = "") const {
    return run_with_fault(fault + " " + folder_ + " " + moment, ranks);
  }
  FlightReport report() const {
    const auto report = merge_flight(folder_);
    if (!report) throw std::runtime_error("no flight records in " + folder_);
    return *report;
  }
  static const CommunicatorReport& gradients(const FlightReport& report) { return report.communicators.at(1); }

 private:
  std::string folder_;
};

TEST(Faults, NoneIsAnOrderlyEnd) {
  const Outcome outcome = run_with_fault("none");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(outcome.output, "");
}

TEST(Faults, RankThatThrowsEndsAllWithItsCodeAndReason) {
  const Outcome outcome = run_with_fault("throws");
  EXPECT_EQ(outcome.exit_code, 23) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("rank 1: thrown in the middle of a step"));
  EXPECT_LT(outcome.time, 10s);
}

TEST(Faults, RankThatThrowsWithAnOperationUnderWayEndsAllWithItsCode) {
  const Outcome outcome = run_with_fault("pending_without_waiting");
  EXPECT_EQ(outcome.exit_code, 23) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("thrown with an operation under way"));
  EXPECT_LT(outcome.time, 10s);
}

TEST(Faults, ExceptionThatUnwindsTheWorldEndsAllWithItsReason) {
  const Outcome outcome = run_with_fault("unwinds");
  EXPECT_EQ(outcome.exit_code, 23) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("thrown in the middle of a step"));
  EXPECT_LT(outcome.time, 10s);
}

TEST(Faults, RankThatTakesBackAMessageUnderWayCallsMpiNoMore) {
  const Outcome outcome = run_with_fault("withdraws");
  EXPECT_EQ(outcome.exit_code, kCommExitCode) << outcome.output;  // not a segmentation fault inside MPI
  EXPECT_THAT(outcome.output, HasSubstr("rank 1: barrier #"));
  EXPECT_THAT(outcome.output, HasSubstr("never ended, so MPI cannot go on here"));
  EXPECT_LT(outcome.time, 10s);
}

TEST(Faults, KilledRankEndsAll) {
  const Outcome outcome = run_with_fault("killed");
  EXPECT_EQ(outcome.exit_code, 128 + 9) << outcome.output;
  EXPECT_LT(outcome.time, 10s);
}

TEST(Faults, RankThatDoesNotJoinIsNamedWithinTheDeadline) {
  const Outcome outcome = run_with_fault("absent");
  EXPECT_EQ(outcome.exit_code, kCommExitCode) << outcome.output;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("not done within 3000 ms"), HasSubstr("waiting for rank 1")));
  EXPECT_LT(outcome.time, 10s);
}

TEST(Faults, StoppedRankIsNamedWithinTheDeadline) {
  const Outcome outcome = run_with_fault("stopped");
  EXPECT_EQ(outcome.exit_code, kCommExitCode) << outcome.output;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("not done within 3000 ms"), HasSubstr("waiting for rank 1")));
  EXPECT_LT(outcome.time, 10s);
}

TEST_P(Flight, OrderlyEndIsNoReport) {
  EXPECT_EQ(fly("none", GetParam()).exit_code, 0);
  const FlightReport found = report();
  EXPECT_FALSE(found.ended_badly()) << found.summary();
  EXPECT_EQ(found.missing.size(), 0U);
  ASSERT_EQ(gradients(found).positions.size(), static_cast<std::size_t>(GetParam()));
  for (const RankPosition& position : gradients(found).positions) EXPECT_EQ(position.completed, 4U);
}

TEST_P(Flight, RankKilledAtARandomMomentIsNamedWithTheOperation) {
  std::mt19937 random(static_cast<unsigned>(GetParam()));
  for (int i = 0; i < fault_runs(3); ++i) {
    const Outcome outcome = fly("killed_at", GetParam(), std::to_string(random() % 500));
    EXPECT_EQ(outcome.exit_code, 128 + 9) << outcome.output;
    EXPECT_LT(outcome.time, 10s);
    const FlightReport found = report();
    EXPECT_TRUE(found.ended_badly());
    EXPECT_THAT(found.named_ranks, ElementsAre(1)) << found.summary();
    EXPECT_THAT(found.summary(),
                AllOf(HasSubstr("rank 1 ("), HasSubstr("killed"), HasSubstr(" at #"), HasSubstr("in phase step")));
  }
}

TEST_P(Flight, RankThatThrowsAtARandomMomentIsNamedWithItsReason) {
  std::mt19937 random(static_cast<unsigned>(GetParam()) + 1);
  for (int i = 0; i < fault_runs(3); ++i) {
    const Outcome outcome = fly("throws_at", GetParam(), std::to_string(random() % 500));
    EXPECT_EQ(outcome.exit_code, 23) << outcome.output;
    EXPECT_LT(outcome.time, 10s);
    const FlightReport found = report();
    EXPECT_TRUE(found.ended_badly());
    EXPECT_THAT(found.named_ranks, ElementsAre(1)) << found.summary();
    EXPECT_THAT(found.summary(), HasSubstr("ended with code 23: thrown at a random moment"));
  }
}

TEST_P(Flight, RankStoppedAtARandomMomentIsNamedWithTheOperation) {
  std::mt19937 random(static_cast<unsigned>(GetParam()) + 2);
  for (int i = 0; i < fault_runs(3) / 3; ++i) {  // each waits for its deadline
    const Outcome outcome = fly("stopped_at", GetParam(), std::to_string(random() % 500));
    EXPECT_EQ(outcome.exit_code, kCommExitCode) << outcome.output;
    EXPECT_LT(outcome.time, 13s);  // a deadline of 3 s, and 10 s to end
    const FlightReport found = report();
    EXPECT_TRUE(found.ended_badly());
    EXPECT_THAT(found.named_ranks, ElementsAre(1)) << found.summary();
    EXPECT_THAT(found.summary(), AllOf(HasSubstr("rank 1 ("), HasSubstr(" at #"), HasSubstr("in phase step")));
    EXPECT_THAT(found.summary(), AnyOf(HasSubstr("stood still for"), HasSubstr("was killed or stopped")));
  }
}

TEST_P(Flight, WatchdogFindsAStoppedRankThoughNobodyWaits) {
  const Outcome outcome = fly("unwaited", GetParam());
  EXPECT_EQ(outcome.exit_code, kWatchdogExitCode) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("watchdog: all_reduce #4 of gradients, 4000000 bytes float32, in phase step"));
  EXPECT_LT(outcome.time, 16s);  // 3 s, the watchdog's grace of 3 s, and 10 s to end
  const FlightReport found = report();
  EXPECT_THAT(found.named_ranks, ElementsAre(1)) << found.summary();
  EXPECT_EQ(gradients(found).sequence, 4U);
  EXPECT_THAT(gradients(found).late_ranks, ElementsAre(1));
  EXPECT_EQ(gradients(found).operation, "all_reduce of 4000000 bytes float32 (sum)");
}

TEST_P(Flight, OtherSizeOnOneRankIsNamedByBothRanks) {
  const Outcome outcome = fly("other_size", GetParam());
  EXPECT_EQ(outcome.exit_code, kCommExitCode) << outcome.output;
  EXPECT_LT(outcome.time, 13s);
  const FlightReport found = report();
  EXPECT_THAT(found.named_ranks, ElementsAre(0, 1)) << found.summary();
  EXPECT_THAT(found.summary(), HasSubstr("#4 of gradients was all_reduce of 4000000 bytes float32 (sum) on rank 0 and "
                                         "all_reduce of 2000000 bytes float32 (sum) on rank 1"));
}

INSTANTIATE_TEST_SUITE_P(Ranks, Flight, testing::Values(2, 4));

TEST(Faults, SilentSingletonInASlurmJobIsRefusedWithTheFix) {
  const Outcome outcome = run(std::string("SLURM_NTASKS=4 ") + FAULT_PROGRAM);
  EXPECT_EQ(outcome.exit_code, 23);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("SLURM_NTASKS"), HasSubstr("mpirun perrin")));
}

TEST(Faults, OneRankOfMpirunInALargerSlurmJobIsRefusedWithTheFix) {
  const Outcome outcome =
      run(std::string("SLURM_NTASKS=4 ") + MPIRUN + " -np 1 --mca plm ^slurm --mca ras ^slurm " + FAULT_PROGRAM);
  EXPECT_EQ(outcome.exit_code, 23) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("SLURM_NTASKS"));
}

TEST(Faults, OneLocalProcessNeedsNoMpi) {
  const Outcome outcome = run(FAULT_PROGRAM);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

}  // namespace
}  // namespace perrin::comm
