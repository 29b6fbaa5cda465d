#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

#include "trainer/diffusion/denoiser.hpp"
#include "trainer/diffusion/parameterization.hpp"

namespace perrin::trainer {
namespace {

constexpr double kSigmaData = 0.5;
constexpr PredictionType kEvery[] = {PredictionType::epsilon, PredictionType::x0, PredictionType::v,
                                     PredictionType::edm};

at::Tensor wave(at::IntArrayRef shape, double phase) {
  return at::arange(at::prod(at::tensor(shape)).item<std::int64_t>(), at::kDouble)
      .add_(phase)
      .mul_(0.7)
      .sin_()
      .view(shape);
}

class Parameterizations : public testing::Test {
 protected:
  const std::shared_ptr<const NoiseSchedule> schedule = std::make_shared<NoiseSchedule>(DiffusionConfig{});
  const at::Tensor x_0 = wave({3, 2, 4, 4}, 0), eps = wave({3, 2, 4, 4}, 5);

  std::vector<NoiseLevel> levels_for(PredictionType prediction) const {
    if (prediction == PredictionType::edm) return {{1, 0.01}, {1, 0.7}, {1, 60}};
    return {schedule->level(0), schedule->level(400), schedule->level(999)};
  }
};

TEST_F(Parameterizations, APerfectOutputGivesBackTheImageAndTheNoise) {
  for (const PredictionType prediction : kEvery) {
    const auto levels = levels_for(prediction);
    const at::Tensor target = network_target(prediction, x_0, eps, levels, kSigmaData);
    const Prediction read = read_output(prediction, q_sample(x_0, eps, levels), target, levels, kSigmaData);
    EXPECT_TRUE(read.x0.allclose(x_0, 0, 1e-11)) << static_cast<int>(prediction);
    EXPECT_TRUE(read.eps.allclose(eps, 0, 1e-11)) << static_cast<int>(prediction);
    EXPECT_FALSE(read.variance_fraction.defined());
  }
}

TEST_F(Parameterizations, AnyOutputExplainsXByItsTwoParts) {
  const at::Tensor output = wave({3, 2, 4, 4}, 11);
  for (const PredictionType prediction : kEvery) {
    const auto levels = levels_for(prediction);
    const at::Tensor x = q_sample(x_0, eps, levels);
    const Prediction read = read_output(prediction, x, output, levels, kSigmaData);
    EXPECT_TRUE(q_sample(read.x0, read.eps, levels).allclose(x, 0, 1e-11)) << static_cast<int>(prediction);
    // x_0 = c_skip x + c_out F.
    for (std::size_t i = 0; i < levels.size(); ++i) {
      const auto [c_skip, c_out, c_in] = precondition(prediction, levels[i], kSigmaData);
      const auto row = static_cast<std::int64_t>(i);
      EXPECT_TRUE(read.x0[row].allclose(c_skip * x[row] + c_out * output[row], 0, 1e-10));
    }
  }
}

TEST_F(Parameterizations, VIsTheVelocityOfSalimansAndHo) {
  const auto levels = levels_for(PredictionType::v);
  const at::Tensor v = network_target(PredictionType::v, x_0, eps, levels, kSigmaData);
  for (std::int64_t i = 0; i < 3; ++i) {
    const NoiseLevel& level = levels[static_cast<std::size_t>(i)];
    EXPECT_TRUE(v[i].equal(level.alpha * eps[i] - level.sigma * x_0[i]));
  }
}

TEST_F(Parameterizations, EdmsFactorsAreThoseOfItsTable) {
  // Karras et al. 2022, table 1; the targets and inputs of its network have unit variance for data of sigma_data.
  for (const double sigma : {0.002, 0.5, 3.0, 80.0}) {
    const auto [c_skip, c_out, c_in] = precondition(PredictionType::edm, {1, sigma}, kSigmaData);
    EXPECT_DOUBLE_EQ(c_skip, 0.25 / (sigma * sigma + 0.25));
    EXPECT_DOUBLE_EQ(c_out, sigma * 0.5 / std::sqrt(sigma * sigma + 0.25));
    EXPECT_DOUBLE_EQ(c_in * c_in * (sigma * sigma + 0.25), 1);
    EXPECT_DOUBLE_EQ(c_noise({1, sigma}), std::log(sigma) / 4);
    const double of_x_0 = (1 - c_skip) / c_out * kSigmaData, of_eps = c_skip * sigma / c_out;
    EXPECT_NEAR(of_x_0 * of_x_0 + of_eps * of_eps, 1, 1e-12);
  }
}

TEST_F(Parameterizations, EdmOfUnitDataPredictsMinusV) {
  for (const std::int64_t t : {0L, 300L, 999L}) {
    const NoiseLevel level = schedule->level(t);
    const auto [c_skip, c_out, c_in] = precondition(PredictionType::edm, level, /*sigma_data=*/1);
    EXPECT_NEAR(c_skip, level.alpha, 1e-12);
    EXPECT_NEAR(c_out, level.sigma, 1e-12);
    EXPECT_NEAR(c_in, 1, 1e-12);
    const std::vector levels(3, level);
    EXPECT_TRUE(network_target(PredictionType::edm, x_0, eps, levels, 1)
                    .allclose(-network_target(PredictionType::v, x_0, eps, levels, 1), 0, 1e-12));
  }
}

TEST_F(Parameterizations, NoOtherSkipAmplifiesEdmsErrorsLess) {
  // Karras et al. 2022, appendix B.6: c_out^2 = (1 - c_skip)^2 sigma_data^2 + c_skip^2 sigma^2 at its least.
  for (const double sigma : {0.01, 0.5, 20.0}) {
    const auto amplified = [&](double c_skip) {
      return std::pow(1 - c_skip, 2) * kSigmaData * kSigmaData + c_skip * c_skip * sigma * sigma;
    };
    const Preconditioning factors = precondition(PredictionType::edm, {1, sigma}, kSigmaData);
    EXPECT_NEAR(factors.c_out * factors.c_out, amplified(factors.c_skip), 1e-14);
    for (const double other : {factors.c_skip * 0.99, factors.c_skip * 1.01})
      EXPECT_GT(amplified(other), amplified(factors.c_skip));
  }
}

TEST_F(Parameterizations, SixChannelsAreAMeanAndAVariance) {
  const auto levels = levels_for(PredictionType::epsilon);
  const at::Tensor output = wave({3, 4, 4, 4}, 3);
  const Prediction read = read_output(PredictionType::epsilon, x_0, output, levels, kSigmaData);
  EXPECT_TRUE(read.eps.equal(output.narrow(1, 0, 2)));
  EXPECT_TRUE(read.variance_fraction.equal((output.narrow(1, 2, 2) + 1) / 2));
  EXPECT_THROW(read_output(PredictionType::epsilon, x_0, wave({3, 3, 4, 4}, 3), levels, kSigmaData),
               std::invalid_argument);
}

// A network that says what it was given.
struct Spy {
  at::Tensor input, condition;
  Network network(const at::Tensor& output) {
    return [this, output](const at::Tensor& x, const at::Tensor& at) {
      input = x;
      condition = at;
      return output;
    };
  }
};

TEST_F(Parameterizations, ADiscreteNetworkIsAskedOnItsOwnProcess) {
  Spy spy;
  const Denoiser denoiser = make_denoiser(spy.network(eps), PredictionType::epsilon, kSigmaData, schedule);
  // The variance-exploding level of Heun's sampler: x / sqrt(sigma^2 + 1) at the nearest timestep.
  const NoiseLevel trained = schedule->level(321);
  const double sigma = trained.sigma / trained.alpha * 1.0003;
  const at::Tensor x = x_0 + sigma * eps;
  const Prediction found = denoiser(x, {.alpha = 1, .sigma = sigma});
  EXPECT_TRUE(spy.input.allclose(x / std::sqrt(1 + sigma * sigma), 0, 1e-13));
  EXPECT_TRUE(spy.condition.equal(at::full({3}, 321, at::kLong)));
  EXPECT_TRUE(found.x0.allclose(x_0, 0, 1e-12));  // D = x - sigma eps
  const Prediction on_process = denoiser(x_0, schedule->level(7));
  EXPECT_TRUE(spy.input.is_same(x_0));
  EXPECT_EQ(spy.condition[0].item<std::int64_t>(), 7);
}

TEST_F(Parameterizations, AnEdmNetworkIsAskedAtAnyLevel) {
  Spy spy;
  const NoiseLevel level = schedule->level(500);
  const double sigma = level.sigma / level.alpha;
  const at::Tensor x = q_sample(x_0, eps, std::vector(3, level));
  const at::Tensor F = network_target(PredictionType::edm, x_0, eps, std::vector(3, NoiseLevel{1, sigma}), kSigmaData);
  const Prediction found = make_denoiser(spy.network(F), PredictionType::edm, kSigmaData, schedule)(x, level);
  EXPECT_TRUE(spy.input.allclose((x_0 + sigma * eps) / std::sqrt(sigma * sigma + 0.25), 0, 1e-12));
  EXPECT_NEAR(spy.condition[1].item<double>(), std::log(sigma) / 4, 1e-13);
  EXPECT_TRUE(found.x0.allclose(x_0, 0, 1e-12));
  EXPECT_TRUE(found.eps.allclose(eps, 0, 1e-11));
}

TEST_F(Parameterizations, GuidanceIsThatOfTheOutputs) {
  const at::Tensor with = wave({3, 2, 4, 4}, 1), without = wave({3, 2, 4, 4}, 2);
  const auto denoiser_of = [&](PredictionType prediction, const at::Tensor& output) {
    return make_denoiser([=](const at::Tensor&, const at::Tensor&) { return output; }, prediction, kSigmaData,
                         schedule);
  };
  const NoiseLevel level = schedule->level(600);
  const double sigma = level.sigma / level.alpha;
  for (const PredictionType prediction : kEvery) {
    const auto guided = [&](double from, double to) {
      return with_guidance(denoiser_of(prediction, with), denoiser_of(prediction, without), 3.5, from, to)(x_0, level);
    };
    const Prediction expected = denoiser_of(prediction, without + 3.5 * (with - without))(x_0, level);
    const Prediction conditional = denoiser_of(prediction, with)(x_0, level);
    EXPECT_TRUE(guided(0, 0).x0.allclose(expected.x0, 0, 1e-11));
    EXPECT_TRUE(guided(0, 0).eps.allclose(expected.eps, 0, 1e-11));
    EXPECT_TRUE(guided(0, sigma).x0.allclose(expected.x0, 0, 1e-11));
    EXPECT_TRUE(guided(sigma, 0).x0.equal(conditional.x0));  // the interval is open below
    EXPECT_TRUE(guided(0, sigma * 0.99).x0.equal(conditional.x0));
  }
}

TEST_F(Parameterizations, ClippingKeepsBothPartsExplainingX) {
  const NoiseLevel level = schedule->level(700);
  const at::Tensor far = 3 * wave({3, 2, 4, 4}, 4);
  const Denoiser raw = make_denoiser([&](const at::Tensor&, const at::Tensor&) { return far; }, PredictionType::x0,
                                     kSigmaData, schedule);
  for (const ClipX0 clip : {ClipX0::fixed, ClipX0::dynamic}) {
    const Prediction clipped = with_clipped_x0(raw, clip, 0.9)(x_0, level);
    EXPECT_LE(clipped.x0.abs().max().item<double>(), 1);
    EXPECT_TRUE(q_sample(clipped.x0, clipped.eps, std::vector(3, level)).allclose(x_0, 0, 1e-12));
  }
  EXPECT_TRUE(with_clipped_x0(raw, ClipX0::fixed, 0.9)(x_0, level).x0.equal(far.clamp(-1, 1)));
  EXPECT_TRUE(with_clipped_x0(raw, ClipX0::none, 0.9)(x_0, level).x0.equal(far));
}

TEST_F(Parameterizations, DynamicClippingDividesByAnImagesOwnPercentile) {
  // Magnitudes 0, 1/31, ..., 1 times 2: the median is 1, and what lies beyond becomes 1.
  const at::Tensor ramp = 2 * at::linspace(0, 1, 32, at::kDouble).view({1, 2, 4, 4});
  const at::Tensor images = at::cat({ramp, 0.1 * ramp});
  const Denoiser raw = make_denoiser([&](const at::Tensor&, const at::Tensor&) { return images; }, PredictionType::x0,
                                     kSigmaData, schedule);
  const at::Tensor x = at::zeros_like(images);
  const at::Tensor at_most = with_clipped_x0(raw, ClipX0::dynamic, 0.75)(x, schedule->level(5)).x0;
  EXPECT_TRUE(at_most[0].allclose((ramp[0] / 1.5).clamp_max(1), 0, 1e-12));
  EXPECT_TRUE(at_most[1].equal(images[1]));  // within [-1, 1] already: not scaled up
}

}  // namespace
}  // namespace perrin::trainer
