#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <utility>

#include "trainer/diffusion/samplers.hpp"

namespace perrin::trainer {
namespace {

at::Tensor one_pixel(double value) { return at::full({1, 1, 1, 1}, value, at::kDouble); }

// Data x_0 ~ N(mean, deviation^2): the optimal denoiser is affine in x, so a sampler's output is affine in its noise.
struct GaussianData {
  double mean = 0.1;
  double deviation = 0.5;

  double x0_mse(const NoiseLevel& level) const {
    const double variance = level.alpha * level.alpha * deviation * deviation + level.sigma * level.sigma;
    return deviation * deviation * level.sigma * level.sigma / variance;
  }
  Denoiser denoiser() const {
    return [*this](const at::Tensor& x, const NoiseLevel& level) {
      const double variance = level.alpha * level.alpha * deviation * deviation + level.sigma * level.sigma;
      const at::Tensor eps = level.sigma * (x - level.alpha * mean) / variance;
      const at::Tensor x0 = mean + level.alpha * deviation * deviation / variance * (x - level.alpha * mean);
      return Prediction{x0, eps, {}};
    };
  }
  // The same, with the variance that minimises the bound, beta~ + coef_x0^2 x0_mse, as a learned one.
  Denoiser with_optimal_variance(const NoiseSchedule& schedule) const {
    return [*this, &schedule](const at::Tensor& x, const NoiseLevel& level) {
      Prediction prediction = denoiser()(x, level);
      if (level.t == 0) return prediction;
      const auto t = static_cast<std::size_t>(level.t);
      const double coefficient = schedule.posterior_mean_coef_x0()[t];
      const double variance = schedule.posterior_variance()[t] + coefficient * coefficient * x0_mse(level);
      const double least = schedule.posterior_log_variance(level.t), most = std::log(schedule.betas()[t]);
      prediction.variance_fraction = at::full_like(x, (std::log(variance) - least) / (most - least));
      return prediction;
    };
  }
};

class SamplersOnGaussianData : public testing::Test {
 protected:
  double output(const SampleConfig& config, VarianceType variance, double normal,
                const std::function<double(std::int64_t)>& z) const {
    const StepNoise noise = [&](std::int64_t t) { return one_pixel(z(t)); };
    return sample_from(data.denoiser(), schedule, config, variance, one_pixel(normal), noise).item<double>();
  }

  // Mean and deviation of a deterministic sampler's output over its standard normals, exactly: the map is affine.
  std::pair<double, double> statistics(const SampleConfig& config) const {
    const auto silent = [](std::int64_t) { return 0.0; };
    const double offset = output(config, VarianceType::fixed_small, 0, silent);
    return {offset, output(config, VarianceType::fixed_small, 1, silent) - offset};
  }

  // The ancestral sampler's mean and variance by one pass: each step is x <- a x + b + c z.
  std::pair<double, double> ancestral_statistics(const Denoiser& denoiser, VarianceType type) const {
    double mean = 0, variance = 1;
    for (std::int64_t t = schedule.timesteps() - 1; t >= 0; --t) {
      const auto step = [&](double x, double z) {
        const at::Tensor x_t = one_pixel(x);
        return ancestral_step(schedule, x_t, denoiser(x_t, schedule.level(t)), t, type, one_pixel(z)).item<double>();
      };
      const double offset = step(0, 0), slope = step(1, 0) - offset, noise = step(0, 1) - offset;
      mean = slope * mean + offset;
      variance = slope * slope * variance + noise * noise;
    }
    return {mean, std::sqrt(variance)};
  }

  const GaussianData data;
  const NoiseSchedule schedule{DiffusionConfig{}};
};

// The expected deviations of this file were computed apart from perrin, in NumPy, from the definitions.
TEST_F(SamplersOnGaussianData, DdimStandardDeviationFallsShortByTheKnownAmount) {
  for (const auto& [steps, deviation] :
       {std::pair{10, 0.36161}, {20, 0.43045}, {50, 0.47192}, {100, 0.48585}, {1000, 0.49850}}) {
    const auto [mean, actual] = statistics({.sampler = Sampler::ddim, .steps = steps, .eta = 0});
    EXPECT_NEAR(actual, deviation, 5e-6) << steps;
    EXPECT_NEAR(mean, 0.0997, 1e-4) << steps;
    EXPECT_LT(actual, 0.5) << steps;  // always, by Cauchy and Schwarz
  }
}

TEST_F(SamplersOnGaussianData, DdimOfUnitDataIsAProductOfCosines) {
  const GaussianData unit{.mean = 0, .deviation = 1};
  const auto timesteps = spaced_timesteps(schedule, 20, Spacing::linspace);
  double expected = 1, angle = 0;
  for (std::size_t i = 0; i <= timesteps.size(); ++i) {
    const double next = i < timesteps.size() ? std::acos(schedule.level(timesteps[i]).alpha) : 0;
    if (i > 0) expected *= std::cos(angle - next);
    angle = next;
  }
  const SampleConfig config{.sampler = Sampler::ddim, .steps = 20};
  const at::Tensor x = sample_from(unit.denoiser(), schedule, config, VarianceType::fixed_small, one_pixel(1), {});
  EXPECT_NEAR(x.item<double>(), expected, 1e-12);
}

TEST_F(SamplersOnGaussianData, AncestralSamplingHasTheKnownStandardDeviations) {
  const auto [small_mean, small] = ancestral_statistics(data.denoiser(), VarianceType::fixed_small);
  const auto [large_mean, large] = ancestral_statistics(data.denoiser(), VarianceType::fixed_large);
  const auto [optimal_mean, optimal] =
      ancestral_statistics(data.with_optimal_variance(schedule), VarianceType::learned_range);
  EXPECT_NEAR(small, 0.49611, 5e-6);
  EXPECT_NEAR(large, 0.50075, 5e-6);
  EXPECT_NEAR(optimal, 0.49990, 5e-6);
  for (const double mean : {small_mean, large_mean, optimal_mean}) EXPECT_NEAR(mean, 0.1, 1e-4);
}

TEST_F(SamplersOnGaussianData, DpmSolverHasTheKnownStandardDeviations) {
  for (const auto& [steps, points, deviation] :
       {std::tuple{20, 20u, 0.50729}, {40, 39u, 0.50183}, {80, 76u, 0.50040}, {160, 144u, 0.50006}}) {
    const SampleConfig config{.sampler = Sampler::dpm_solver, .steps = steps};
    EXPECT_EQ(spaced_timesteps(schedule, steps, Spacing::log_snr).size(), points);
    EXPECT_NEAR(statistics(config).second, deviation, 5e-6) << steps;
  }
  // Ending a grid that is uniform in t at index 0 is poor.
  EXPECT_NEAR(statistics({.sampler = Sampler::dpm_solver, .steps = 20, .spacing = Spacing::linspace}).second, 0.62,
              5e-3);
}

TEST_F(SamplersOnGaussianData, HeunHasTheKnownStandardDeviations) {
  // 18 steps give 0.5276246; a table that says 0.52763 rounded it up.
  for (const auto& [steps, deviation] : {std::pair{18, 0.52762}, {36, 0.50610}, {72, 0.50143}, {144, 0.50034}}) {
    const auto [mean, actual] = statistics({.sampler = Sampler::heun, .steps = steps});
    EXPECT_NEAR(actual, deviation, 5e-6) << steps;
    EXPECT_GT(mean, 0.0992) << steps;
    EXPECT_LT(mean, 0.0995) << steps;
  }
}

TEST_F(SamplersOnGaussianData, ErrorsFallWithTheOrderOfTheSampler) {
  const auto error = [&](const SampleConfig& config) { return std::abs(0.5 - statistics(config).second); };
  const auto ratio = [&](Sampler sampler, std::int64_t steps) {
    return error({.sampler = sampler, .steps = steps}) / error({.sampler = sampler, .steps = 2 * steps});
  };
  EXPECT_NEAR(ratio(Sampler::ddim, 250), 2, 0.15);
  EXPECT_NEAR(ratio(Sampler::dpm_solver, 20), 4, 0.3);
  EXPECT_NEAR(ratio(Sampler::heun, 36), 4, 0.4);
}

TEST_F(SamplersOnGaussianData, TheLoopOfTheAncestralSamplerIsItsSteps) {
  const NoiseSchedule few({.timesteps = 20, .beta_start = 0.01, .beta_end = 0.3});
  const auto z_at = [](std::int64_t t) { return one_pixel(std::sin(static_cast<double>(t))); };
  at::Tensor x = one_pixel(0.4);
  const at::Tensor looped = sample_from(data.denoiser(), few, {.sampler = Sampler::ancestral, .steps = 0},
                                        VarianceType::fixed_large, x, z_at);
  for (std::int64_t t = 19; t >= 0; --t)
    x = ancestral_step(few, x, data.denoiser()(x, few.level(t)), t, VarianceType::fixed_large, z_at(t));
  EXPECT_NEAR(looped.item<double>(), x.item<double>(), 1e-13);
}

TEST_F(SamplersOnGaussianData, FewAncestralStepsAreThoseOfTheRespacedProcess) {
  const auto z_at = [](std::int64_t t) { return one_pixel(std::cos(static_cast<double>(t))); };
  const std::vector<std::int64_t> visited{0, 333, 666, 999};
  const NoiseSchedule few = respaced(schedule, visited);
  at::Tensor x = one_pixel(0.4);
  const at::Tensor looped = sample_from(data.denoiser(), schedule, {.sampler = Sampler::ancestral, .steps = 4},
                                        VarianceType::fixed_large, x, z_at);
  for (std::int64_t i = 3; i >= 0; --i) {
    const std::int64_t t = visited[static_cast<std::size_t>(i)];
    x = ancestral_step(few, x, data.denoiser()(x, schedule.level(t)), i, VarianceType::fixed_large, z_at(t));
  }
  EXPECT_EQ(looped.item<double>(), x.item<double>());
}

TEST_F(SamplersOnGaussianData, DdimWithEtaOneAndAllStepsIsFixedSmallAncestralSampling) {
  const auto z = [](std::int64_t t) { return std::sin(static_cast<double>(t)); };
  for (const Spacing spacing : {Spacing::linspace, Spacing::leading, Spacing::trailing}) {
    const SampleConfig ddim{.sampler = Sampler::ddim, .steps = 1000, .spacing = spacing, .eta = 1};
    const SampleConfig ancestral{.sampler = Sampler::ancestral, .steps = 0};
    for (const double x_T : {-1.3, 0.0, 2.0})
      EXPECT_NEAR(output(ddim, VarianceType::fixed_large, x_T, z), output(ancestral, VarianceType::fixed_small, x_T, z),
                  1e-10);
  }
}

TEST_F(SamplersOnGaussianData, TheFirstOrderStepOfDpmSolverIsDdimWithoutNoise) {
  // Lu et al. 2022, section 4: DDIM is DPM-Solver++ of order 1.
  for (const auto& [from, to] : {std::pair{999, 700}, {500, 499}, {30, 0}}) {
    const NoiseLevel here = schedule.level(from), there = schedule.level(to);
    const at::Tensor x = one_pixel(0.7);
    const Prediction prediction = data.denoiser()(x, here);
    EXPECT_NEAR(dpm_solver_step(x, prediction.x0, here, there, {}, {}).item<double>(),
                ddim_step(prediction, here, there, 0, {}).item<double>(), 1e-12);
  }
}

TEST(DdimStep, KeepsTheMarginalForEveryEta) {
  // With a denoiser that knows x_0, x ~ N(a x_0, sigma^2) goes to N(a' x_0, sigma'^2): Song et al. 2021, eq. 7.
  const NoiseSchedule schedule{DiffusionConfig{}};
  const NoiseLevel from = schedule.level(600), to = schedule.level(300);
  const auto step = [&](double eta, double eps, double z) {
    return ddim_step({one_pixel(0.4), one_pixel(eps), {}}, from, to, eta, one_pixel(z)).item<double>();
  };
  for (const double eta : {0.0, 0.3, 0.8, 1.0}) {
    const double mean = step(eta, 0, 0);
    EXPECT_NEAR(mean, to.alpha * 0.4, 1e-14);
    EXPECT_NEAR(std::pow(step(eta, 1, 0) - mean, 2) + std::pow(step(eta, 0, 1) - mean, 2), to.sigma * to.sigma, 1e-14);
  }
}

TEST_F(SamplersOnGaussianData, ChurnHasTheKnownMeansAndDeviations) {
  // Affine in each normal: the start and each step's noise add their squares. 40 / 18 is over the cap of sqrt(2) - 1.
  struct Known {
    double churn, noise, mean, deviation;
  };
  for (const Known& known :
       {Known{40, 1.003, 0.0999749, 0.5640499}, {5, 1.003, 0.0999345, 0.5529238}, {40, 1, 0.0999749, 0.5623649}}) {
    const SampleConfig config{.sampler = Sampler::heun,
                              .steps = 18,
                              .churn = known.churn,
                              .churn_min = 0.05,
                              .churn_max = 50,
                              .churn_noise = known.noise};
    const auto silent = [](std::int64_t) { return 0.0; };
    const double mean = output(config, VarianceType::fixed_small, 0, silent);
    double variance = std::pow(output(config, VarianceType::fixed_small, 1, silent) - mean, 2);
    std::int64_t noisy_steps = 0;
    for (std::int64_t step = 0; step < 18; ++step) {
      const auto one = [&](std::int64_t at) { return at == step ? 1.0 : 0.0; };
      const double moved = output(config, VarianceType::fixed_small, 0, one) - mean;
      variance += moved * moved;
      noisy_steps += moved != 0;
    }
    EXPECT_NEAR(mean, known.mean, 1e-7);
    EXPECT_NEAR(std::sqrt(variance), known.deviation, 1e-7);
    EXPECT_EQ(noisy_steps, std::ranges::count_if(heun_sigmas(18, 0.002, 80, 7),
                                                 [](double sigma) { return sigma >= 0.05 && sigma <= 50; }));
  }
}

// The optimal network of Gaussian data by its raw output, whatever it predicts.
Network optimal_network(const GaussianData& data, PredictionType prediction, const NoiseSchedule& schedule) {
  return [=, &schedule](const at::Tensor& input, const at::Tensor& condition) {
    const bool edm = prediction == PredictionType::edm;
    const NoiseLevel level = edm ? NoiseLevel{1, std::exp(4 * condition[0].item<double>())}
                                 : schedule.level(condition[0].item<std::int64_t>());
    const auto [c_skip, c_out, c_in] = precondition(prediction, level, 0.5);
    const at::Tensor x = input / c_in;
    return (data.denoiser()(x, level).x0 - c_skip * x) / c_out;
  };
}

TEST_F(SamplersOnGaussianData, EverySamplerReadsEveryPrediction) {
  // A discrete network has Heun's levels only to the nearest timestep, so that sampler is checked with edm's.
  const auto shared = std::make_shared<const NoiseSchedule>(schedule);
  const auto z = [](std::int64_t t) { return one_pixel(std::sin(static_cast<double>(t))); };
  for (const auto prediction : {PredictionType::epsilon, PredictionType::x0, PredictionType::v, PredictionType::edm}) {
    const Denoiser read = make_denoiser(optimal_network(data, prediction, schedule), prediction, 0.5, shared);
    for (const auto sampler : {Sampler::ancestral, Sampler::ddim, Sampler::dpm_solver, Sampler::heun}) {
      if (sampler == Sampler::heun && prediction != PredictionType::edm) continue;
      const SampleConfig config{.sampler = sampler, .steps = 20, .eta = 0.4};
      const auto draw = [&](const Denoiser& denoiser) {
        return sample_from(denoiser, schedule, config, VarianceType::fixed_large, one_pixel(0.8), z).item<double>();
      };
      EXPECT_NEAR(draw(read), draw(data.denoiser()), 1e-9)
          << static_cast<int>(prediction) << ", " << static_cast<int>(sampler);
    }
  }
}

TEST_F(SamplersOnGaussianData, HeunOverADiscreteNetworkIsNearTheContinuousOne) {
  const auto shared = std::make_shared<const NoiseSchedule>(schedule);
  const SampleConfig config{.sampler = Sampler::heun, .steps = 18, .sigma_min = 0.01};
  const auto draw = [&](const Denoiser& denoiser) {
    return sample_from(denoiser, schedule, config, VarianceType::fixed_large, one_pixel(0.8), {}).item<double>();
  };
  const Denoiser discrete =
      make_denoiser(optimal_network(data, PredictionType::epsilon, schedule), PredictionType::epsilon, 0.5, shared);
  EXPECT_NEAR(draw(discrete), draw(data.denoiser()), 0.01);
  EXPECT_NE(draw(discrete), draw(data.denoiser()));
}

TEST_F(SamplersOnGaussianData, EverySamplerWorksFromPureNoiseWithoutSignal) {
  DiffusionConfig config{.zero_terminal_snr = true, .prediction = PredictionType::v};
  const NoiseSchedule zero(config);
  for (const Sampler sampler : {Sampler::ancestral, Sampler::ddim, Sampler::dpm_solver}) {
    const SampleConfig sample{.sampler = sampler, .steps = 50};
    const auto z = [](std::int64_t) { return one_pixel(0); };
    const double at_0 =
        sample_from(data.denoiser(), zero, sample, VarianceType::fixed_small, one_pixel(0), z).item<double>();
    EXPECT_NEAR(at_0, 0.1, 1e-3);  // no signal at the start: the mean is the data's own
    const double at_1 =
        sample_from(data.denoiser(), zero, sample, VarianceType::fixed_small, one_pixel(1), z).item<double>();
    EXPECT_TRUE(std::isfinite(at_1));
  }
}

TEST(SpacedTimesteps, AreThoseOfThePublicImplementations) {
  const NoiseSchedule schedule{DiffusionConfig{}};
  const auto spaced = [&](std::int64_t steps, Spacing spacing) { return spaced_timesteps(schedule, steps, spacing); };
  using testing::ElementsAre;
  EXPECT_THAT(spaced(4, Spacing::linspace), ElementsAre(999, 666, 333, 0));
  EXPECT_THAT(spaced(1, Spacing::linspace), ElementsAre(999));
  EXPECT_THAT(spaced(4, Spacing::leading), ElementsAre(750, 500, 250, 0));
  EXPECT_EQ(spaced(100, Spacing::leading).front(), 990);  // t = 999 is never seen
  EXPECT_THAT(spaced(4, Spacing::trailing), ElementsAre(999, 749, 499, 249));
  EXPECT_THAT(spaced(7, Spacing::trailing), ElementsAre(999, 856, 713, 570, 428, 285, 142));
  EXPECT_THAT(spaced(5, Spacing::quad), ElementsAre(800, 450, 200, 50, 0));
  EXPECT_THAT(spaced(6, Spacing::quad), ElementsAre(800, 512, 288, 128, 32, 0));
  for (const Spacing spacing : {Spacing::leading, Spacing::linspace, Spacing::trailing})
    EXPECT_EQ(spaced(0, spacing).size(), 1000u);
  EXPECT_EQ(spaced(50, Spacing::log_snr).front(), 999);
  EXPECT_EQ(spaced(50, Spacing::log_snr).back(), 0);
  EXPECT_THROW(spaced(1001, Spacing::linspace), std::invalid_argument);
  EXPECT_THROW(spaced(-1, Spacing::linspace), std::invalid_argument);
  EXPECT_THROW(spaced(10, Spacing::automatic), std::invalid_argument);
}

TEST(HeunSigmas, FollowTheirFormula) {
  const auto sigmas = heun_sigmas(18, 0.002, 80, 7);
  ASSERT_EQ(sigmas.size(), 19u);
  EXPECT_NEAR(sigmas[0], 80, 1e-10);
  EXPECT_NEAR(sigmas[1], 57.5859, 1e-3);  // Karras et al. 2022, eq. 5
  EXPECT_NEAR(sigmas[17], 0.002, 1e-14);
  EXPECT_EQ(sigmas[18], 0);
}

}  // namespace
}  // namespace perrin::trainer
