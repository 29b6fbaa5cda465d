#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "trainer/diffusion/objective.hpp"
#include "trainer/diffusion/process.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

std::vector<std::uint64_t> first_positions(std::size_t count) {
  std::vector<std::uint64_t> positions(count);
  std::iota(positions.begin(), positions.end(), 0);
  return positions;
}

at::Tensor noise(std::int64_t count, std::uint64_t seed, at::IntArrayRef shape) {
  return keyed_normal({.seed = seed}, first_positions(static_cast<std::size_t>(count)), shape);
}

class DiffusionProcessTest : public testing::Test {
 protected:
  double abar(std::int64_t step) const { return process.schedule().alphas_cumprod()[static_cast<std::size_t>(step)]; }

  const DiffusionProcess process{NoiseSchedule(DiffusionConfig{})};
  const at::Tensor t = at::tensor({0L, 1L, 500L, 999L});
  const at::Tensor x_0 = noise(4, 1, {3, 4, 4}).to(at::kDouble);
  const at::Tensor eps = noise(4, 2, {3, 4, 4}).to(at::kDouble);
};

TEST_F(DiffusionProcessTest, QSampleIsTheClosedFormAtEachTimestep) {
  const at::Tensor x_t = process.q_sample(x_0, t, eps);
  for (std::int64_t i = 0; i < 4; ++i) {
    const double a = abar(t[i].item<std::int64_t>());
    EXPECT_TRUE(x_t[i].allclose(std::sqrt(a) * x_0[i] + std::sqrt(1 - a) * eps[i], 0, 1e-14));
  }
}

TEST_F(DiffusionProcessTest, QSampleHasTheMeanAndVarianceOfItsDistribution) {
  constexpr std::int64_t kSamples = 2000;
  const at::Tensor x = at::full({kSamples, 1, 16, 16}, 0.7);
  const at::Tensor z = noise(kSamples, 3, {1, 16, 16}).to(at::kDouble);
  const double draws = static_cast<double>(kSamples) * 256;
  for (const std::int64_t step : {0L, 100L, 500L, 999L}) {
    const at::Tensor x_t = process.q_sample(x.to(at::kDouble), at::full({kSamples}, step, at::kLong), z);
    const double variance = 1 - abar(step);
    EXPECT_NEAR(x_t.mean().item<double>(), std::sqrt(abar(step)) * 0.7, 5 * std::sqrt(variance / draws)) << step;
    EXPECT_NEAR(x_t.var().item<double>(), variance, 5 * variance * std::sqrt(2 / draws)) << step;
  }
}

TEST_F(DiffusionProcessTest, SingleStepsComposeToQSample) {
  // x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) z: mean factor and variance, step by step, are those of q(x_t | x_0).
  double mean = 1, variance = 0;
  const at::Tensor one = at::ones({1, 1, 1, 1}, at::kDouble), zero = at::zeros({1, 1, 1, 1}, at::kDouble);
  for (std::int64_t step = 0; step < 1000; ++step) {
    const double beta = process.schedule().betas()[static_cast<std::size_t>(step)];
    mean *= std::sqrt(1 - beta);
    variance = (1 - beta) * variance + beta;
    const at::Tensor at_step = at::full({1}, step, at::kLong);
    ASSERT_NEAR(process.q_sample(one, at_step, zero).item<double>(), mean, 1e-13);
    ASSERT_NEAR(process.q_sample(zero, at_step, one).square().item<double>(), variance, 1e-13);
  }
}

TEST_F(DiffusionProcessTest, PredictionsInvertQSample) {
  const at::Tensor x_t = process.q_sample(x_0, t, eps);
  EXPECT_TRUE(process.predict_x0_from_eps(x_t, t, eps).allclose(x_0, 0, 1e-11));
  EXPECT_TRUE(process.predict_eps_from_x0(x_t, t, x_0).allclose(eps, 0, 1e-11));
}

TEST_F(DiffusionProcessTest, BothFormsOfThePosteriorMeanAgree) {
  // mean(x_t, x_0) = (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(alpha_t), Ho et al. 2020 eq. 10.
  const at::Tensor x_t = process.q_sample(x_0, t, eps);
  const Gaussian posterior = process.q_posterior(x_0, x_t, t);
  EXPECT_EQ(posterior.variance.sizes(), (std::vector<std::int64_t>{4, 1, 1, 1}));
  for (std::int64_t i = 0; i < 4; ++i) {
    const auto step = t[i].item<std::int64_t>();
    const double beta = process.schedule().betas()[static_cast<std::size_t>(step)];
    const at::Tensor by_eps = (x_t[i] - beta / std::sqrt(1 - abar(step)) * eps[i]) / std::sqrt(1 - beta);
    EXPECT_TRUE(posterior.mean[i].allclose(by_eps, 0, 1e-12)) << step;
    EXPECT_EQ(posterior.variance[i].item<double>(),
              process.schedule().posterior_variance()[static_cast<std::size_t>(step)]);
  }
}

TEST_F(DiffusionProcessTest, ResultsKeepTheTypeOfTheirInput) {
  EXPECT_EQ(process.q_sample(x_0.to(at::kFloat), t, eps.to(at::kFloat)).scalar_type(), at::kFloat);
  EXPECT_EQ(process.q_sample(x_0, t, eps).scalar_type(), at::kDouble);
}

TEST_F(DiffusionProcessTest, RefusesForeignTimestepsAndShapes) {
  EXPECT_THROW(process.q_sample(x_0, at::tensor({0L, 1L, 2L, 1000L}), eps), std::out_of_range);
  EXPECT_THROW(process.q_sample(x_0, at::tensor({0L, 1L, 2L, -1L}), eps), std::out_of_range);
  EXPECT_THROW(process.q_sample(x_0, at::tensor({0L}), eps), std::invalid_argument);
  EXPECT_THROW(process.q_sample(x_0, t, eps.slice(0, 0, 2)), std::invalid_argument);
}

TEST(EpsilonLoss, IsTheMeanSquareOfEachSample) {
  const at::Tensor eps = at::zeros({2, 3, 2, 2}, at::kDouble);
  const at::Tensor eps_hat = at::stack({at::full({3, 2, 2}, 2.0, at::kDouble), at::full({3, 2, 2}, -3.0, at::kDouble)});
  EXPECT_TRUE(epsilon_loss_per_sample(eps_hat, eps).equal(at::tensor({4.0, 9.0}, at::kDouble)));
  EXPECT_THROW(epsilon_loss_per_sample(eps_hat, eps.slice(0, 0, 1)), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
