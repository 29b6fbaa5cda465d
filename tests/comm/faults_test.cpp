// A fault on one rank ends the whole run within 10 s, with its exit code and its reason.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;

struct Outcome {
  int exit_code = -1;
  std::string output;
  std::chrono::steady_clock::duration time{};
};

Outcome run(const std::string& command) {
  Outcome outcome;
  const auto start = std::chrono::steady_clock::now();
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  char buffer[4096];
  while (const std::size_t length = std::fread(buffer, 1, sizeof(buffer), pipe)) outcome.output.append(buffer, length);
  const int status = ::pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.time = std::chrono::steady_clock::now() - start;
  return outcome;
}

Outcome run_with_fault(const std::string& fault) {
  return run(std::string(MPIRUN) + " -np 4 --oversubscribe --bind-to none " + FAULT_PROGRAM + " " + fault);
}

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

TEST(Faults, KilledRankEndsAll) {
  const Outcome outcome = run_with_fault("killed");
  EXPECT_EQ(outcome.exit_code, 128 + 9) << outcome.output;
  EXPECT_LT(outcome.time, 10s);
}

TEST(Faults, RankThatDoesNotJoinIsNamedWithinTheDeadline) {
  const Outcome outcome = run_with_fault("absent");
  EXPECT_EQ(outcome.exit_code, 23) << outcome.output;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("not done within 3000 ms"), HasSubstr("waiting for rank 1")));
  EXPECT_LT(outcome.time, 10s);
}

TEST(Faults, StoppedRankIsNamedWithinTheDeadline) {
  const Outcome outcome = run_with_fault("stopped");
  EXPECT_EQ(outcome.exit_code, 23) << outcome.output;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("not done within 3000 ms"), HasSubstr("waiting for rank 1")));
  EXPECT_LT(outcome.time, 10s);
}

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
