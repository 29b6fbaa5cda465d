#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "comm/comm_error.hpp"
#include "data/data_error.hpp"
#include "launch/commands/dry_run.hpp"
#include "launch/commands/trace_option.hpp"
#include "launch/config/config_error.hpp"
#include "launch/config/read.hpp"
#include "launch/cpu_share.hpp"
#include "launch/exit_code.hpp"
#include "launch/failure.hpp"
#include "launch/session.hpp"
#include "launch/usage_error.hpp"
#include "launch/world_options.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/run_error.hpp"

namespace perrin::launch {
namespace {

using testing::HasSubstr;

template <class Exception>
Failure failure_of(const Exception& exception) {
  return describe_failure(std::make_exception_ptr(exception));
}

TEST(TraceOption, NamesOneStepOrARange) {
  EXPECT_FALSE(read_trace_steps("", 20));
  EXPECT_EQ(read_trace_steps("steps=10-12", 20)->first, 10);
  EXPECT_EQ(read_trace_steps("steps=10-12", 20)->last, 12);
  EXPECT_EQ(read_trace_steps("steps=20", 20)->first, 20);
  EXPECT_EQ(read_trace_steps("steps=20", 20)->last, 20);
}

TEST(TraceOption, RefusesWhatIsNoRangeOfTheRun) {
  const auto refusal = [](const std::string& text) -> std::string {
    try {
      (void)read_trace_steps(text, 5000);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  for (const char* text : {"10-12", "steps=", "steps=a-b", "steps=1-", "steps=-3", "steps=1-2-3", "steps=1.5",
                           "steps=99999999999999999999"})
    EXPECT_THAT(refusal(text), HasSubstr("as in --trace steps=10-12")) << text;
  EXPECT_THAT(refusal("steps=0-3"), HasSubstr("count from 1"));
  EXPECT_THAT(refusal("steps=12-10"), HasSubstr("the last step is before the first"));
  EXPECT_THAT(refusal("steps=4999-5001"), HasSubstr("ends at step 5000"));
  EXPECT_THAT(refusal("steps=1-1001"), HasSubstr("1000 steps at most"));
}

TEST(ExitCodes, AreDistinctAndLeaveTheNumbersOfSignalsAlone) {
  std::set<int> codes;
  for (const auto& [code, meaning] : kExitCodes) {
    EXPECT_TRUE(codes.insert(static_cast<int>(code)).second) << meaning;
    EXPECT_LT(static_cast<int>(code), 128);
    EXPECT_FALSE(meaning.empty());
  }
}

TEST(Failures, EachLayerHasItsExitCodeAndKeepsItsMessage) {
  EXPECT_EQ(failure_of(UsageError("u")).code, ExitCode::usage);
  EXPECT_EQ(failure_of(ConfigError("f:3", "a.b", "c")).code, ExitCode::config);
  EXPECT_EQ(failure_of(data::DataError("f", "d")).code, ExitCode::data);
  EXPECT_EQ(failure_of(comm::CommError({.operation = "barrier"}, "c")).code, ExitCode::communication);
  EXPECT_EQ(failure_of(trainer::CheckpointError("f", "c")).code, ExitCode::checkpoint);
  EXPECT_EQ(failure_of(trainer::RunError("r")).code, ExitCode::run);
  EXPECT_EQ(failure_of(std::logic_error("l")).code, ExitCode::internal);
  EXPECT_EQ(describe_failure(std::make_exception_ptr(1)).code, ExitCode::internal);
  EXPECT_EQ(failure_of(ConfigError("f:3", "a.b", "c")).message, "f:3: c");
  EXPECT_THAT(failure_of(std::bad_alloc()).message, HasSubstr("train.micro_batch"));
}

CpuSet cpus(std::initializer_list<int> numbers) {
  CpuSet set{};
  for (const int cpu : numbers) {
    set[static_cast<std::size_t>(cpu) / 64] |= static_cast<std::int64_t>(std::uint64_t{1} << (cpu % 64));
  }
  return set;
}

TEST(CpuShare, RanksThatMayUseTheSameCpusDivideThem) {
  const CpuSet all = cpus({0, 1, 2, 3, 62, 63, 64, 65});
  EXPECT_EQ(share_of_cpus(all, std::vector{all}), 8);
  EXPECT_EQ(share_of_cpus(all, std::vector{all, all}), 4);
  EXPECT_EQ(share_of_cpus(all, std::vector{all, all, all}), 2);
  EXPECT_EQ(share_of_cpus(all, std::vector(20, all)), 1);
}

TEST(CpuShare, BoundRanksKeepTheirOwnCpus) {
  const CpuSet first = cpus({0, 1, 2}), second = cpus({3, 4, 5});
  EXPECT_EQ(share_of_cpus(first, std::vector{first, second}), 3);
  EXPECT_EQ(share_of_cpus(second, std::vector{first, second}), 3);
}

TEST(CpuShare, ThisProcessMayUseACpu) { EXPECT_GE(share_of_cpus(usable_cpus(), std::vector{usable_cpus()}), 1); }

TEST(LaunchedAs, FollowsTheLauncherThatStartedTheProcess) {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"})
    unsetenv(name);
  EXPECT_EQ(launched_as().rank, 0);
  EXPECT_EQ(launched_as().size, 1);
  setenv("PMI_RANK", "2", 1);
  setenv("PMI_SIZE", "3", 1);
  EXPECT_EQ(launched_as().rank, 2);
  EXPECT_EQ(launched_as().size, 3);
  setenv("OMPI_COMM_WORLD_RANK", "5", 1);
  setenv("OMPI_COMM_WORLD_SIZE", "8", 1);
  EXPECT_EQ(launched_as().rank, 5);
  EXPECT_EQ(launched_as().size, 8);
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE"}) unsetenv(name);
}

class WritableFolder : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(root_); }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::filesystem::path root_ =
      std::filesystem::path(testing::TempDir()) / ("perrin-writable-" + std::to_string(::getpid()));
};

TEST_F(WritableFolder, OneThatCouldBeMadeIsFineAndIsNotMade) {
  EXPECT_NO_THROW(require_writable_folder(root_));
  EXPECT_NO_THROW(require_writable_folder(root_ / "a" / "b"));
  EXPECT_NO_THROW(require_writable_folder(""));
  EXPECT_FALSE(std::filesystem::exists(root_ / "a"));
}

TEST_F(WritableFolder, AFileInTheWayIsNamed) {
  std::ofstream(root_ / "file") << "x";
  try {
    require_writable_folder(root_ / "file" / "run");
    FAIL() << "taken";
  } catch (const trainer::RunError& error) {
    EXPECT_THAT(error.what(), HasSubstr((root_ / "file").string() + " (it is not a folder)"));
  }
}

TEST(WorldOptions, TakeTheDeadlineOfTheConfiguration) {
  trainer::DistributedConfig config;
  config.timeout_seconds = 1.5;
  EXPECT_EQ(world_options(config, true).communicator.deadline, std::chrono::milliseconds(1500));
  EXPECT_TRUE(world_options(config, true).require_all_slurm_tasks);
  EXPECT_FALSE(world_options(config, false).require_all_slurm_tasks);
}

TEST(DryRun, TheReportIsTheConfigurationWithTheEstimatesOfTheDdpmPaper) {
  trainer::Config config;  // the CIFAR-10 model of Ho et al. 2020
  const data::ImageShape shape{3, 32, 32};
  const std::string report = dry_run_report(config, trainer::estimate(config, shape, 4), 50'000, shape, 4);
  EXPECT_THAT(report, HasSubstr("# 35746307 parameters in 328 tensors, for images of 3x32x32"));
  EXPECT_THAT(report, HasSubstr("128 images on 4 ranks, at most 32 each"));
  EXPECT_THAT(report, HasSubstr("390.6 steps an epoch, 2048.00 epochs in 800000 steps"))
      << "50,000 / 128 and 800,000 * 128 / 50,000";
  EXPECT_THAT(report, HasSubstr("# checkpoint: 545.4 MiB each")) << "4 buffers of 35,746,307 floats";
  EXPECT_EQ(read_config_text(report, "report").train.steps, 800'000) << "the report is itself a configuration";
}

TEST(DryRun, TheReportSaysWhatThePartsOfThreadsMayTake) {
  trainer::Config config;
  const data::ImageShape shape{3, 32, 32};
  const auto report = [&] { return dry_run_report(config, trainer::estimate(config, shape, 4), 50'000, shape, 4); };
  EXPECT_THAT(report(), HasSubstr("# threads of the CPU: up to 409.1 MiB more")) << "any number: 4 parts";
  config.distributed.threads = 2;
  EXPECT_THAT(report(), HasSubstr("# threads of the CPU: up to 136.4 MiB more"));
  config.distributed.threads = 1;
  EXPECT_THAT(report(), testing::Not(HasSubstr("# threads of the CPU")));
  config.distributed.threads = 0;
  config.distributed.device = comm::DeviceChoice::cuda;
  EXPECT_THAT(report(), testing::Not(HasSubstr("# threads of the CPU")));
}

TEST(DryRun, TheReportSaysWhatShardingSavesARank) {
  trainer::Config config;
  const data::ImageShape shape{3, 32, 32};
  const auto report = [&](int ranks) {
    return dry_run_report(config, trainer::estimate(config, shape, ranks), 50'000, shape, ranks);
  };
  // 35,746,307 floats are 136.4 MiB: two buffers are whole, Adam's two and one average are cut in four.
  const std::string sharded =
      "375.0 MiB (weights 136.4 MiB, gradients 136.4 MiB, Adam 68.2 MiB, EMA 34.1 MiB), 136.4 MiB more while it "
      "evaluates, 136.4 MiB on the host for checkpoints";
  const std::string plain =
      "681.9 MiB (weights 136.4 MiB, gradients 136.4 MiB, Adam 272.8 MiB, EMA 136.4 MiB), 136.4 "
      "MiB on the host for checkpoints";
  EXPECT_THAT(report(4), HasSubstr("# memory of each rank: " + plain));
  EXPECT_THAT(report(4), HasSubstr("# with optimizer.shard = true: " + sharded));
  config.optimizer.shard = true;
  EXPECT_THAT(report(4), HasSubstr("# memory of each rank: " + sharded));
  EXPECT_THAT(report(4), HasSubstr("# with optimizer.shard = false: " + plain));
  EXPECT_THAT(report(1), testing::Not(HasSubstr("# with optimizer.shard"))) << "one rank has nothing to share";
}

}  // namespace
}  // namespace perrin::launch
