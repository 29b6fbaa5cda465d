#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <stdexcept>

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
  for (const BetaSchedule kind : {BetaSchedule::linear, BetaSchedule::cosine}) {
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

TEST(NoiseSchedule, ReverseVarianceIsBetaTildeOrBetaAndNothingAtTheEnd) {
  const NoiseSchedule schedule(DiffusionConfig{});
  EXPECT_EQ(schedule.reverse_variance(7, VarianceType::fixed_small), schedule.posterior_variance()[7]);
  EXPECT_EQ(schedule.reverse_variance(7, VarianceType::fixed_large), schedule.betas()[7]);
  EXPECT_EQ(schedule.reverse_variance(0, VarianceType::fixed_large), 0);
  EXPECT_THROW(schedule.reverse_variance(1000, VarianceType::fixed_large), std::out_of_range);
}

TEST(NoiseSchedule, RefusesWhatIsNoSchedule) {
  EXPECT_THROW(NoiseSchedule({.timesteps = 0}), std::invalid_argument);
  EXPECT_THROW(NoiseSchedule({.beta_start = 0}), std::invalid_argument);
  EXPECT_THROW(NoiseSchedule({.beta_end = 1.0}), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
