// Threads that take a part of a rank's images each: what they train is what one thread trains.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/world.hpp"
#include "trainer/synthetic_steps.hpp"

namespace perrin::trainer {
namespace {

Config small_config(Precision precision) {
  Config config;
  config.model.block_out_channels = {16, 32};
  config.model.layers_per_block = 1;
  config.model.attention_resolutions = {4};
  config.model.norm_num_groups = 4;
  config.model.dropout = 0.1;
  config.train.batch_size = 44;  // 11 images a rank of four: parts of unequal size
  config.train.precision = precision;
  config.ema.decays = {0.9};
  return config;
}

struct Outcome {
  std::vector<double> losses;
  at::Tensor gradients, weights;
};

Outcome trained(Config config, int threads, int steps) {
  comm::World& world = perrin::test::world();
  at::set_num_threads(threads);
  SyntheticSteps synthetic(config, {.channels = 3, .height = 8, .width = 8}, world, at::kCPU);
  synthetic.connect(world.gradients(), /*overlap=*/true);
  ActivityClock clock;
  Outcome outcome;
  for (int step = 0; step < steps; ++step) {
    outcome.losses.push_back(synthetic.step(clock));
    if (step == 0) outcome.gradients = synthetic.arena().gradients().clone();
  }
  outcome.weights = synthetic.arena().weights().clone();
  at::set_num_threads(1);
  return outcome;
}

double distance(const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm()).item<double>(); }

TEST(PartsOfASlice, AreAsManyAsThereAreThreadsAndImagesFor) {
  EXPECT_EQ(parts_of_slice(64, 1, at::kCPU), 1u);
  EXPECT_EQ(parts_of_slice(64, 2, at::kCPU), 2u);
  EXPECT_EQ(parts_of_slice(64, 64, at::kCPU), 4u);
  EXPECT_EQ(parts_of_slice(8, 64, at::kCPU), 2u);
  EXPECT_EQ(parts_of_slice(7, 64, at::kCPU), 1u);
  EXPECT_EQ(parts_of_slice(1, 64, at::kCPU), 1u);
  EXPECT_EQ(parts_of_slice(64, 64, at::kCUDA), 1u);
}

TEST(StepThreads, GiveTheGradientOfTheWholeSlice) {
  for (const Reduction reduction : {Reduction::fast, Reduction::reproducible})
    for (const std::int64_t micro_batch : {0, 9}) {
      Config config = small_config(Precision::fp32);
      config.distributed.reduction = reduction;
      if (reduction == Reduction::reproducible) {
        if (micro_batch != 0) continue;  // shards take their place
        config.distributed.shards = 4;
      }
      config.train.micro_batch = micro_batch;
      const Outcome one = trained(config, 1, 3);
      for (const int threads : {2, 3}) {
        const Outcome several = trained(config, threads, 3);
        EXPECT_LT(distance(several.gradients, one.gradients), 1e-5) << threads << " threads";
        for (std::size_t i = 0; i < one.losses.size(); ++i) EXPECT_NEAR(several.losses[i], one.losses[i], 1e-5);
        EXPECT_TRUE(several.weights.equal(trained(config, threads, 3).weights)) << "not the same bits again";
      }
    }
}

TEST(StepThreads, AddGradientsOfBfloat16InFloat32) {
  const Config config = small_config(Precision::bf16);
  const Outcome exact = trained(small_config(Precision::fp32), 1, 1), one = trained(config, 1, 1),
                two = trained(config, 2, 1);
  EXPECT_LT(distance(two.gradients, exact.gradients), 1.1 * distance(one.gradients, exact.gradients));
}

}  // namespace
}  // namespace perrin::trainer
