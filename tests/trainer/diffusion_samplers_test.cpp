#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <stdexcept>
#include <utility>

#include "trainer/diffusion/samplers.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

// Data x_0 ~ N(mean, deviation^2): the optimal network is affine in x_t, so a sampler's output is affine in its noise.
struct GaussianData {
  double mean = 0.1;
  double deviation = 0.5;

  EpsilonModel optimal_network(std::shared_ptr<const NoiseSchedule> schedule) const {
    return [*this, schedule](const at::Tensor& x_t, const at::Tensor& t) {
      const double abar = schedule->alphas_cumprod()[static_cast<std::size_t>(t[0].item<std::int64_t>())];
      const double variance = abar * deviation * deviation + 1 - abar;
      return std::sqrt(1 - abar) * (x_t - std::sqrt(abar) * mean) / variance;
    };
  }
};

class SamplersOnGaussianData : public testing::Test {
 protected:
  // What the sampler makes of one start value and, at each step, of the noise z.
  double output(const SampleConfig& config, VarianceType variance, double x_T,
                const std::function<double(std::int64_t)>& z) const {
    const StepNoise noise = [&](std::int64_t t) { return at::full({1, 1, 1, 1}, z(t), at::kDouble); };
    return sample_from(data.optimal_network(schedule), *schedule, config, variance,
                       at::full({1, 1, 1, 1}, x_T, at::kDouble), noise, ClipX0::no)
        .item<double>();
  }

  // Mean and deviation of DDIM's output (eta = 0) over x_T ~ N(0, 1), exactly: the map is affine.
  std::pair<double, double> ddim_statistics(std::int64_t steps) const {
    const SampleConfig config{.sampler = Sampler::ddim, .steps = steps, .eta = 0};
    const auto silent = [](std::int64_t) { return 0.0; };
    const double offset = output(config, VarianceType::fixed_small, 0, silent);
    return {offset, output(config, VarianceType::fixed_small, 1, silent) - offset};
  }

  // The ancestral sampler's mean and variance by one pass: each step is x <- a x + b + c z.
  std::pair<double, double> ancestral_statistics(VarianceType type) const {
    const EpsilonModel network = data.optimal_network(schedule);
    double mean = 0, variance = 1;
    for (std::int64_t t = schedule->timesteps() - 1; t >= 0; --t) {
      const auto step = [&](double x, double z) {
        const at::Tensor x_t = at::full({1, 1, 1, 1}, x, at::kDouble);
        const at::Tensor eps = network(x_t, at::full({1}, t, at::kLong));
        return ancestral_step(*schedule, x_t, eps, t, type, at::full({1, 1, 1, 1}, z, at::kDouble), ClipX0::no)
            .item<double>();
      };
      const double offset = step(0, 0), slope = step(1, 0) - offset, noise = step(0, 1) - offset;
      mean = slope * mean + offset;
      variance = slope * slope * variance + noise * noise;
    }
    return {mean, std::sqrt(variance)};
  }

  const GaussianData data;
  const std::shared_ptr<const NoiseSchedule> schedule = std::make_shared<NoiseSchedule>(DiffusionConfig{});
};

// The expected deviations of this file were computed apart from perrin, in NumPy, from the definitions.
TEST_F(SamplersOnGaussianData, DdimStandardDeviationFallsShortByTheKnownAmount) {
  for (const auto& [steps, deviation] :
       {std::pair{10, 0.36161}, {20, 0.43045}, {50, 0.47192}, {100, 0.48585}, {1000, 0.49850}}) {
    const auto [mean, actual] = ddim_statistics(steps);
    EXPECT_NEAR(actual, deviation, 5e-6) << steps;
    EXPECT_NEAR(mean, 0.0997, 1e-4) << steps;
  }
}

TEST_F(SamplersOnGaussianData, AncestralSamplingHasTheKnownStandardDeviations) {
  const auto [small_mean, small] = ancestral_statistics(VarianceType::fixed_small);
  const auto [large_mean, large] = ancestral_statistics(VarianceType::fixed_large);
  EXPECT_NEAR(small, 0.49611, 5e-6);
  EXPECT_NEAR(large, 0.50075, 5e-6);
  EXPECT_NEAR(small_mean, 0.1, 1e-4);
  EXPECT_NEAR(large_mean, 0.1, 1e-4);
}

TEST_F(SamplersOnGaussianData, TheLoopOfTheAncestralSamplerIsItsSteps) {
  DiffusionConfig short_chain{.timesteps = 20, .beta_start = 0.01, .beta_end = 0.3};
  const auto few = std::make_shared<NoiseSchedule>(short_chain);
  const EpsilonModel network = data.optimal_network(few);
  const auto z_at = [](std::int64_t t) {
    return at::full({1, 1, 1, 1}, std::sin(static_cast<double>(t)), at::kDouble);
  };
  at::Tensor x = at::full({1, 1, 1, 1}, 0.4, at::kDouble);
  const at::Tensor looped =
      sample_from(network, *few, {.sampler = Sampler::ancestral}, VarianceType::fixed_large, x, z_at, ClipX0::no);
  for (std::int64_t t = 19; t >= 0; --t) {
    x = ancestral_step(*few, x, network(x, at::full({1}, t, at::kLong)), t, VarianceType::fixed_large, z_at(t),
                       ClipX0::no);
  }
  EXPECT_EQ(looped.item<double>(), x.item<double>());
}

TEST_F(SamplersOnGaussianData, DdimWithEtaOneAndAllStepsIsFixedSmallAncestralSampling) {
  const auto z = [](std::int64_t t) { return std::sin(static_cast<double>(t)); };
  const SampleConfig ddim{.sampler = Sampler::ddim, .steps = 1000, .eta = 1};
  const SampleConfig ancestral{.sampler = Sampler::ancestral};
  for (const double x_T : {-1.3, 0.0, 2.0}) {
    EXPECT_NEAR(output(ddim, VarianceType::fixed_large, x_T, z), output(ancestral, VarianceType::fixed_small, x_T, z),
                1e-10);
  }
}

TEST_F(SamplersOnGaussianData, DdimErrorHalvesWithTwiceTheSteps) {
  const auto error = [&](std::int64_t steps) { return 0.5 - ddim_statistics(steps).second; };
  EXPECT_NEAR(error(250) / error(500), 2, 0.15);
}

TEST(DdimTimesteps, RunFromTheLastToTheFirst) {
  EXPECT_THAT(ddim_timesteps(1000, 4), testing::ElementsAre(999, 666, 333, 0));
  EXPECT_THAT(ddim_timesteps(1000, 1), testing::ElementsAre(999));
  EXPECT_EQ(ddim_timesteps(50, 50).size(), 50u);
  EXPECT_THROW(ddim_timesteps(50, 51), std::invalid_argument);
  EXPECT_THROW(ddim_timesteps(50, 0), std::invalid_argument);
}

TEST(Samplers, ClippingKeepsPredictionsOfX0InTheRangeOfImages) {
  const NoiseSchedule schedule(DiffusionConfig{});
  const at::Tensor x = at::full({1, 1, 1, 1}, 3.0, at::kDouble), eps = at::zeros({1, 1, 1, 1}, at::kDouble);
  EXPECT_EQ(ddim_step(schedule, x, eps, 500, -1, 0, {}, ClipX0::yes).item<double>(), 1);
  EXPECT_GT(ddim_step(schedule, x, eps, 500, -1, 0, {}, ClipX0::no).item<double>(), 3);
  EXPECT_NEAR(ancestral_step(schedule, x, eps, 0, VarianceType::fixed_large, {}, ClipX0::yes).item<double>(), 1, 1e-12);
}

TEST(Samplers, SamplesBelongToTheirIndicesNotToTheirBatch) {
  const DiffusionProcess process(NoiseSchedule({.timesteps = 30}));
  const EpsilonModel network = [](const at::Tensor& x_t, const at::Tensor& t) {
    return 0.3 * x_t + 0.001 * t.view({-1, 1, 1, 1});
  };
  const data::ImageShape shape{3, 4, 4};
  for (const Sampler sampler : {Sampler::ancestral, Sampler::ddim}) {
    const SampleConfig config{.sampler = sampler, .steps = 10, .eta = 0.5, .seed = 4};
    const auto draw = [&](std::vector<std::uint64_t> indices) {
      return sample(network, process, config, VarianceType::fixed_large, indices, shape, at::kCPU);
    };
    const at::Tensor together = draw({5, 6, 7});
    EXPECT_EQ(together.sizes(), (std::vector<std::int64_t>{3, 3, 4, 4}));
    EXPECT_TRUE(at::cat({draw({5}), draw({6, 7})}).equal(together));
    EXPECT_FALSE(draw({8, 6, 7})[0].equal(together[0]));
  }
}

}  // namespace
}  // namespace perrin::trainer
