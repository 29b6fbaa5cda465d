#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <stdexcept>
#include <vector>

#include "trainer/diffusion/schedule.hpp"

namespace perrin::trainer {
namespace {

TEST(NoiseSchedule, LinearHasThePublishedClosedForms) {
  const NoiseSchedule schedule(DiffusionConfig{});
  ASSERT_EQ(schedule.timesteps(), 1000);
  EXPECT_DOUBLE_EQ(schedule.betas().front(), 1e-4);
  EXPECT_DOUBLE_EQ(schedule.betas().back(), 0.02);
  EXPECT_NEAR(schedule.alphas_cumprod().back(), 4.035830e-5, 5e-12);
  EXPECT_NEAR(schedule.posterior_variance()[1], 5.453188e-5, 5e-12);
}

TEST(NoiseSchedule, CosineFollowsItsDefinition) {
  const NoiseSchedule schedule({.timesteps = 400, .beta_schedule = BetaSchedule::cosine});
  const auto f = [](double u) { return std::pow(std::cos((u + 0.008) / 1.008 * std::numbers::pi / 2), 2); };
  for (const std::int64_t t : {0, 1, 57, 200, 390}) {  // before betas meet their cap of 0.999
    EXPECT_NEAR(schedule.alphas_cumprod()[static_cast<std::size_t>(t)], f((static_cast<double>(t) + 1) / 400) / f(0),
                1e-12)
        << t;
  }
  EXPECT_DOUBLE_EQ(schedule.betas().back(), 0.999);
}

TEST(NoiseSchedule, TablesAgreeWithTheirDefinitionsAtEveryStep) {
  for (const BetaSchedule kind :
       {BetaSchedule::linear, BetaSchedule::quadratic, BetaSchedule::cosine, BetaSchedule::sigmoid}) {
    const NoiseSchedule schedule({.timesteps = 50, .beta_schedule = kind});
    double product = 1;
    for (std::size_t t = 0; t < 50; ++t) {
      const double beta = schedule.betas()[t];
      EXPECT_DOUBLE_EQ(schedule.alphas_cumprod_prev()[t], product);
      const double previous = product;
      product *= 1 - beta;
      EXPECT_DOUBLE_EQ(schedule.alphas_cumprod()[t], product);
      // q(x_{t-1} | x_t, x_0) by multiplying the Gaussians q(x_t | x_{t-1}) and q(x_{t-1} | x_0): precisions add.
      if (t > 0) {
        const double precision = (1 - beta) / beta + 1 / (1 - previous);
        EXPECT_NEAR(schedule.posterior_variance()[t] * precision, 1, 1e-12);
        EXPECT_NEAR(schedule.posterior_mean_coef_xt()[t] * precision * beta / std::sqrt(1 - beta), 1, 1e-12);
        EXPECT_NEAR(schedule.posterior_mean_coef_x0()[t] * precision * (1 - previous) / std::sqrt(previous), 1, 1e-12);
      }
    }
    EXPECT_EQ(schedule.posterior_variance()[0], 0);
    EXPECT_NEAR(schedule.posterior_mean_coef_x0()[0], 1, 1e-12);
  }
}

TEST(NoiseSchedule, RootsOfQuadraticBetasAreEvenlySpaced) {
  const auto betas = make_betas({.timesteps = 100, .beta_schedule = BetaSchedule::quadratic});
  for (std::size_t t = 0; t < 100; ++t)
    EXPECT_NEAR(std::sqrt(betas[t]), 0.01 + (std::sqrt(0.02) - 0.01) * static_cast<double>(t) / 99, 1e-15) << t;
}

TEST(NoiseSchedule, SigmoidBetasAreSymmetricAboutTheirMiddle) {
  const auto betas = make_betas({.timesteps = 101, .beta_schedule = BetaSchedule::sigmoid});
  EXPECT_NEAR(betas[50], (1e-4 + 0.02) / 2, 1e-15);
  for (std::size_t t = 0; t < 101; ++t) EXPECT_NEAR(betas[t] + betas[100 - t], 1e-4 + 0.02, 1e-15) << t;
  EXPECT_NEAR(betas[0], 1e-4 + (0.02 - 1e-4) / (1 + std::exp(6)), 1e-15);
}

TEST(NoiseSchedule, AListIsTakenAsItIs) {
  const std::vector<double> list{0.1, 0.3, 0.2};
  EXPECT_EQ(NoiseSchedule({.timesteps = 3, .beta_schedule = BetaSchedule::listed, .betas = list}).betas(), list);
  EXPECT_THROW(NoiseSchedule({.timesteps = 4, .beta_schedule = BetaSchedule::listed, .betas = list}),
               std::invalid_argument);
}

TEST(NoiseSchedule, ZeroTerminalSnrShiftsAndScalesTheSignal) {
  const DiffusionConfig config{.timesteps = 200, .prediction = PredictionType::v};
  DiffusionConfig zero = config;
  zero.zero_terminal_snr = true;
  const NoiseSchedule before(config), after(zero);
  EXPECT_EQ(after.alphas_cumprod().back(), 0);
  EXPECT_EQ(after.betas().back(), 1);
  const auto root = [](const NoiseSchedule& s, std::size_t t) { return std::sqrt(s.alphas_cumprod()[t]); };
  EXPECT_NEAR(root(after, 0), root(before, 0), 1e-15);
  // Lin et al. 2024: affine in sqrt(abar), so differences keep their ratios.
  const double scale = root(before, 0) / (root(before, 0) - root(before, 199));
  for (std::size_t t = 1; t < 200; ++t)
    EXPECT_NEAR(root(after, t - 1) - root(after, t), scale * (root(before, t - 1) - root(before, t)), 1e-13) << t;
  EXPECT_TRUE(std::isfinite(after.posterior_variance().back()));
}

TEST(NoiseSchedule, ReverseLogVarianceIsOfBetaTildeOrBeta) {
  const NoiseSchedule schedule(DiffusionConfig{});
  EXPECT_EQ(schedule.reverse_log_variance(7, VarianceType::fixed_small), std::log(schedule.posterior_variance()[7]));
  EXPECT_EQ(schedule.reverse_log_variance(7, VarianceType::fixed_large), std::log(schedule.betas()[7]));
  // At t = 0, where the posterior has no width, that of t = 1 serves the decoder.
  for (const VarianceType type : {VarianceType::fixed_small, VarianceType::fixed_large})
    EXPECT_EQ(schedule.reverse_log_variance(0, type), std::log(schedule.posterior_variance()[1]));
  EXPECT_THROW(schedule.reverse_log_variance(1000, VarianceType::fixed_large), std::out_of_range);
  EXPECT_THROW(schedule.reverse_log_variance(7, VarianceType::learned_range), std::invalid_argument);
}

TEST(NoiseSchedule, RespacingKeepsTheNoiseOfTheTimestepsItVisits) {
  const NoiseSchedule schedule(DiffusionConfig{});
  const std::vector<std::int64_t> visited{0, 111, 500, 501, 999};
  const NoiseSchedule few = respaced(schedule, visited);
  ASSERT_EQ(few.timesteps(), 5);
  for (std::size_t i = 0; i < visited.size(); ++i)
    EXPECT_NEAR(few.alphas_cumprod()[i] / schedule.alphas_cumprod()[static_cast<std::size_t>(visited[i])], 1, 1e-13);
  // Steps that follow each other in both are the same steps.
  EXPECT_NEAR(few.betas()[3], schedule.betas()[501], 1e-14);
}

TEST(NoiseSchedule, FindsTheTimestepOfANoiseLevel) {
  const NoiseSchedule schedule(DiffusionConfig{});
  for (const std::int64_t t : {0L, 1L, 400L, 999L}) {
    const NoiseLevel level = schedule.level(t);
    EXPECT_EQ(level.t, t);
    EXPECT_NEAR(level.alpha * level.alpha + level.sigma * level.sigma, 1, 1e-15);
    EXPECT_NEAR(schedule.snr(t), std::pow(level.alpha / level.sigma, 2), 1e-9 * schedule.snr(t));
    EXPECT_EQ(schedule.nearest_timestep(level.sigma / level.alpha * 1.0001), t);
  }
  EXPECT_EQ(schedule.nearest_timestep(0), 0);
  EXPECT_EQ(schedule.nearest_timestep(1e9), 999);
}

TEST(NoiseSchedule, RefusesWhatIsNoSchedule) {
  EXPECT_THROW(NoiseSchedule(DiffusionConfig{.timesteps = 0}), std::invalid_argument);
  EXPECT_THROW(NoiseSchedule(DiffusionConfig{.beta_start = 0}), std::invalid_argument);
  EXPECT_THROW(NoiseSchedule(DiffusionConfig{.beta_end = 1.5}), std::invalid_argument);
  EXPECT_THROW(NoiseSchedule(std::vector<double>{}), std::invalid_argument);
  EXPECT_THROW(NoiseSchedule(std::vector<double>{0.1, 1.0, 0.1}), std::invalid_argument);
  EXPECT_THROW(NoiseSchedule(std::vector<double>(2000, 0.1)), std::invalid_argument);      // abar is almost 0
  EXPECT_THROW(NoiseSchedule(DiffusionConfig{.beta_end = 0.999}), std::invalid_argument);  // it underflows to 0
}

}  // namespace
}  // namespace perrin::trainer
