#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "trainer/diffusion/level_sampler.hpp"
#include "trainer/diffusion/objective.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/optimize/adam_ema.hpp"
#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

constexpr data::ImageShape kImage{1, 16, 16};
constexpr double kMean = 0.1, kDeviation = 0.5;
constexpr std::int64_t kBatch = 16;

std::vector<std::uint64_t> positions_from(std::uint64_t first) {
  std::vector<std::uint64_t> positions(kBatch);
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

at::Tensor normals(std::uint64_t seed, std::uint64_t first) {
  return keyed_normal({.seed = seed}, positions_from(first), {1, 16, 16});
}

// Images whose pixels are independent N(0.1, 0.5^2): no network can have less than the floor of L_simple, the mean over
// t of abar s^2 / (abar s^2 + 1 - abar) = 0.173053, and the best one is affine in x_t.
TEST(GaussianData, ATrainedNetworkReachesTheFloorOfItsLoss) {
  Config config;
  config.model = {.block_out_channels = {8}, .layers_per_block = 1, .attention_resolutions = {}, .norm_num_groups = 2};
  config.objective.timesteps = TimestepSampling::stratified;
  config.train = {.steps = 1500, .batch_size = kBatch};
  config.optimizer = {.lr = 4e-3, .warmup_steps = 50, .schedule = LrSchedule::cosine};
  config.ema.decays = {0.99};
  const DiffusionProcess process{NoiseSchedule(config.diffusion)};
  const Objective objective(config, process);
  const LevelSampler sampler(config, process.schedule());

  ParameterArena arena(unet_parameters(config.model, kImage), 1, /*seed=*/1, at::kCPU);
  const AdamEma optimizer(config.optimizer, config.ema, config.train.steps);
  const UNet unet(config.model, kImage, arena.trainable(arena.leaves()), arena.layout().memory_format());
  const Network network = [&](const at::Tensor& x, const at::Tensor& t) { return unet(x, t); };
  for (std::int64_t step = 0; step < config.train.steps; ++step) {
    const std::uint64_t first = static_cast<std::uint64_t>(step) * kBatch;
    const auto levels = sampler.draw(positions_from(first), first, LossHistory()).levels;
    const NoisedImages noised = objective.noised(kMean + kDeviation * normals(2, first), normals(3, first), levels);
    objective.terms(network, noised, levels).loss.mean().backward();
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < arena.leaves().size(); ++i) {
      at::Tensor& gradient = const_cast<at::Tensor&>(arena.leaves()[i]).mutable_grad();
      arena.layout().view(arena.gradients(), arena.layout().ranges()[i]).copy_(gradient);
      gradient.reset();
    }
    optimizer.update(arena, gradient_norm(arena.gradients()), step, step);
  }

  const at::NoGradGuard no_grad;
  const UNet averaged(config.model, kImage, arena.frozen(arena.emas().front()), arena.layout().memory_format());
  const Network trained = [&](const at::Tensor& x, const at::Tensor& t) { return averaged(x, t); };
  constexpr std::int64_t kBatches = 64;
  double loss = 0;
  for (std::int64_t b = 0; b < kBatches; ++b) {
    const auto first = static_cast<std::uint64_t>(b * kBatch);
    std::vector<NoiseLevel> levels;
    for (std::int64_t i = 0; i < kBatch; ++i) levels.push_back(sampler.evenly(b * kBatch + i, kBatches * kBatch));
    const at::Tensor x_0 = kMean + kDeviation * normals(4, first), eps = normals(5, first);
    loss +=
        objective.terms(trained, objective.noised(x_0, eps, levels), levels).simple.mean().item<double>() / kBatches;
  }
  constexpr double kFloor = 0.173053;
  EXPECT_GT(loss, 0.99 * kFloor);  // below it only by the chance of the sample
  EXPECT_LT(loss, 1.03 * kFloor);
  RecordProperty("loss_over_floor", std::to_string(loss / kFloor));
}

}  // namespace
}  // namespace perrin::trainer
