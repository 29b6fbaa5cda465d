#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "trainer/diffusion/parameterization.hpp"
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
  const std::vector<NoiseLevel> levels{process.schedule().level(0), process.schedule().level(1),
                                       process.schedule().level(500), process.schedule().level(999)};
  const at::Tensor x_0 = noise(4, 1, {3, 4, 4}).to(at::kDouble);
  const at::Tensor eps = noise(4, 2, {3, 4, 4}).to(at::kDouble);
};

TEST_F(DiffusionProcessTest, QSampleIsTheClosedFormAtEachTimestep) {
  const at::Tensor x_t = q_sample(x_0, eps, levels);
  for (std::int64_t i = 0; i < 4; ++i) {
    const double a = abar(t[i].item<std::int64_t>());
    EXPECT_TRUE(x_t[i].allclose(std::sqrt(a) * x_0[i] + std::sqrt(1 - a) * eps[i], 0, 1e-14));
  }
}

TEST_F(DiffusionProcessTest, TheMeanAndVarianceOfQAreThoseOfQSample) {
  const Gaussian q = process.q_mean_variance(x_0, t);
  EXPECT_TRUE(q.mean.allclose(q_sample(x_0, at::zeros_like(eps), levels), 0, 1e-14));
  EXPECT_TRUE((q.variance.sqrt() * eps).allclose(q_sample(at::zeros_like(x_0), eps, levels), 0, 1e-14));
}

TEST_F(DiffusionProcessTest, QSampleHasTheMeanAndVarianceOfItsDistribution) {
  constexpr std::int64_t kSamples = 2000;
  const at::Tensor x = at::full({kSamples, 1, 16, 16}, 0.7);
  const at::Tensor z = noise(kSamples, 3, {1, 16, 16}).to(at::kDouble);
  const double draws = static_cast<double>(kSamples) * 256;
  for (const std::int64_t step : {0L, 100L, 500L, 999L}) {
    const at::Tensor x_t = q_sample(x.to(at::kDouble), z, std::vector(kSamples, process.schedule().level(step)));
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
    const std::vector at_step{process.schedule().level(step)};
    ASSERT_NEAR(q_sample(one, zero, at_step).item<double>(), mean, 1e-13);
    ASSERT_NEAR(q_sample(zero, one, at_step).square().item<double>(), variance, 1e-13);
  }
}

TEST_F(DiffusionProcessTest, BothFormsOfThePosteriorMeanAgree) {
  // mean(x_t, x_0) = (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(alpha_t), Ho et al. 2020 eq. 10.
  const at::Tensor x_t = q_sample(x_0, eps, levels);
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

TEST_F(DiffusionProcessTest, ThePosteriorIsTheProductOfItsTwoGaussians) {
  // q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0): multiplied on a grid.
  const double clean = 0.3;
  for (const std::int64_t step : {1L, 30L, 500L}) {
    const double noisy = 0.8, beta = process.schedule().betas()[static_cast<std::size_t>(step)];
    const double previous = abar(step - 1);
    const auto one = [](double value) { return at::full({1, 1, 1, 1}, value, at::kDouble); };
    const Gaussian posterior = process.q_posterior(one(clean), one(noisy), at::full({1}, step, at::kLong));
    const double mean = posterior.mean.item<double>(), deviation = posterior.variance.sqrt().item<double>();
    const at::Tensor x = mean + deviation * at::linspace(-12, 12, 20001, at::kDouble);
    const at::Tensor log_product = -(noisy - std::sqrt(1 - beta) * x).square() / (2 * beta) -
                                   (x - std::sqrt(previous) * clean).square() / (2 * (1 - previous));
    const at::Tensor density = (log_product - log_product.max()).exp();
    const at::Tensor weights = density / density.sum();
    const double found = (weights * x).sum().item<double>();
    EXPECT_NEAR(found, mean, 1e-9) << step;
    EXPECT_NEAR((weights * (x - found).square()).sum().item<double>() / (deviation * deviation), 1, 1e-9) << step;
  }
}

TEST_F(DiffusionProcessTest, ALearnedVarianceLiesBetweenBetaTildeAndBeta) {
  const auto at_fraction = [&](double fraction) {
    return process.reverse_log_variance(VarianceType::learned_range, t, x_0, at::full_like(x_0, fraction));
  };
  const auto fixed = [&](VarianceType type) { return process.reverse_log_variance(type, t, x_0); };
  EXPECT_TRUE(at_fraction(0).allclose(fixed(VarianceType::fixed_small).expand_as(x_0), 0, 1e-13));
  EXPECT_TRUE(
      at_fraction(1).slice(0, 1).allclose(fixed(VarianceType::fixed_large).expand_as(x_0).slice(0, 1), 0, 1e-13));
  EXPECT_TRUE(at_fraction(0.25).allclose(0.75 * at_fraction(0) + 0.25 * at_fraction(1), 0, 1e-13));
  EXPECT_THROW(process.reverse_log_variance(VarianceType::learned_range, t, x_0), std::invalid_argument);
}

TEST_F(DiffusionProcessTest, ResultsKeepTheTypeOfTheirInput) {
  EXPECT_EQ(q_sample(x_0.to(at::kFloat), eps.to(at::kFloat), levels).scalar_type(), at::kFloat);
  EXPECT_EQ(process.q_posterior(x_0.to(at::kFloat), eps.to(at::kFloat), t).mean.scalar_type(), at::kFloat);
}

TEST_F(DiffusionProcessTest, RefusesForeignTimestepsAndShapes) {
  EXPECT_THROW(process.q_posterior(x_0, eps, at::tensor({0L, 1L, 2L, 1000L})), std::out_of_range);
  EXPECT_THROW(process.q_posterior(x_0, eps, at::tensor({0L, 1L, 2L, -1L})), std::out_of_range);
  EXPECT_THROW(process.q_posterior(x_0, eps, at::tensor({0L})), std::invalid_argument);
  EXPECT_THROW(q_sample(x_0, eps.slice(0, 0, 2), levels), std::invalid_argument);
  EXPECT_THROW(q_sample(x_0, eps, std::vector(3, NoiseLevel{})), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
