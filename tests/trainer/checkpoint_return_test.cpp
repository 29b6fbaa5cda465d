#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <string>

#include "comm/local_communicator.hpp"
#include "tests/trainer/small_network.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/checkpoint/checkpoint_writer.hpp"
#include "trainer/checkpoint/resume.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::trainer {
namespace {

/// A run that goes on from its checkpoints.
class ReturnTest : public testing::Test {
 protected:
  ReturnTest() { spdlog::set_level(spdlog::level::off); }
  ~ReturnTest() override { spdlog::set_level(spdlog::level::info); }

  void write(std::int64_t step) {
    state.progress.step = step;
    CheckpointWriter writer(state, shards, alone, incarnation, {.keep = 100});
    writer.begin_checkpoint({.parent = paths.checkpoints(), .origin = origin, .resumed_from = resumed_from});
    ASSERT_TRUE(writer.finish()->published);
  }
  /// @return name of the checkpoint from which the run goes on
  std::string resume(ResumeReason reason) {
    return resume_newest(paths.checkpoints(), origin, state, alone, reason).value().checkpoint.filename();
  }
  /// As train() does: the state to which the run returned is stored in an incarnation of its own.
  std::string return_after_divergence() {
    resumed_from = resume(ResumeReason::divergence);
    incarnation.advance(alone);
    write(state.progress.step);
    return resumed_from;
  }

  const CheckpointOrigin origin{.config = "[run]\n",
                                .dataset_fingerprint = "f",
                                .image_shape = {1, 8, 8},
                                .sample_order = "order",
                                .ema_decays = {0.9}};
  const perrin::test::TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  comm::LocalCommunicator alone;
  Incarnation incarnation = Incarnation::begin(paths, alone);
  TrainingState state{.arena = ParameterArena(test::parameters(), 1, /*seed=*/3, at::kCPU),
                      .progress = {},
                      .losses = {},
                      .loss_history = LossHistory()};
  ShardGather shards{state.arena, alone, nullptr};
  std::string resumed_from;
};

TEST_F(ReturnTest, GoesToAnEarlierCheckpointEachTimeThatItLedToDivergenceAgain) {
  for (const std::int64_t step : {10, 20, 30}) write(step);
  EXPECT_EQ(return_after_divergence(), "step-00000030-i0001");
  EXPECT_EQ(return_after_divergence(), "step-00000020-i0001");
  EXPECT_EQ(resume(ResumeReason::start), "step-00000020-i0003") << "a start goes on where the last return led";
  EXPECT_EQ(return_after_divergence(), "step-00000010-i0001");
  EXPECT_EQ(return_after_divergence(), "step-00000010-i0004") << "there is none before it";
}

TEST_F(ReturnTest, GoesToTheNewestOneThatHasNotLedToDivergence) {
  for (const std::int64_t step : {10, 20}) write(step);
  EXPECT_EQ(return_after_divergence(), "step-00000020-i0001");
  write(30);
  EXPECT_EQ(return_after_divergence(), "step-00000030-i0002");
  // Those of the branches that were left do not count.
  EXPECT_EQ(return_after_divergence(), "step-00000020-i0002");
  EXPECT_EQ(return_after_divergence(), "step-00000010-i0001");
}

}  // namespace
}  // namespace perrin::trainer
