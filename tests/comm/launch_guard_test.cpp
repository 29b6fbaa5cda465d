#include "comm/launch_guard.hpp"

#include <gmock/gmock.h>

#include <map>
#include <string>

#include "comm/comm_error.hpp"

namespace perrin::comm {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Environment environment_of(std::map<std::string, std::string> variables) {
  return [variables](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
}

std::string refusal(int world_size, bool strict, std::map<std::string, std::string> variables) {
  try {
    refuse_silent_singletons(world_size, strict, environment_of(std::move(variables)));
  } catch (const CommError& error) {
    return error.what();
  }
  return "";
}

TEST(LaunchGuard, KnowsTheLaunchers) {
  EXPECT_FALSE(started_by_launcher(environment_of({{"SLURM_NTASKS", "4"}})));
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    EXPECT_TRUE(started_by_launcher(environment_of({{name, "0"}}))) << name;
  }
}

TEST(LaunchGuard, RefusesTasksOfAStepThatWouldEachRunAlone) {
  for (const bool strict : {false, true}) {
    EXPECT_THAT(refusal(1, strict, {{"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_NTASKS", "8"}}),
                AllOf(HasSubstr("8 tasks"), HasSubstr("SLURM_STEP_NUM_TASKS"), HasSubstr("srun --mpi=pmix")));
  }
  EXPECT_EQ(refusal(8, true, {{"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_NTASKS", "8"}}), "");
}

TEST(LaunchGuard, RefusesOneRankInALargerJobOnlyWhereAllTasksAreRequired) {
  EXPECT_THAT(refusal(1, true, {{"SLURM_NTASKS", "4"}}), AllOf(HasSubstr("SLURM_NTASKS"), HasSubstr("mpirun perrin")));
  EXPECT_EQ(refusal(1, false, {{"SLURM_NTASKS", "4"}}), "");
  EXPECT_EQ(refusal(1, true, {{"SLURM_NTASKS", "1"}, {"SLURM_STEP_NUM_TASKS", "1"}}), "");
  EXPECT_EQ(refusal(1, true, {}), "");
}

TEST(LaunchGuard, RefusesAnMpirunOfAnotherMpi) {
  EXPECT_THAT(refusal(1, false, {{"OMPI_COMM_WORLD_SIZE", "4"}}), HasSubstr("different MPI libraries"));
  EXPECT_EQ(refusal(4, true, {{"OMPI_COMM_WORLD_SIZE", "4"}, {"SLURM_NTASKS", "4"}}), "");
  EXPECT_EQ(refusal(1, false, {{"OMPI_COMM_WORLD_SIZE", "1"}}), "");
}

TEST(LaunchGuard, IgnoresWhatIsNotANumber) {
  EXPECT_EQ(refusal(1, true, {{"SLURM_NTASKS", ""}, {"SLURM_STEP_NUM_TASKS", "x"}}), "");
}

}  // namespace
}  // namespace perrin::comm
