#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "trainer/diffusion/bound.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

std::vector<NoiseLevel> levels_at(const DiffusionProcess& process, const at::Tensor& t) {
  std::vector<NoiseLevel> levels;
  for (std::int64_t i = 0; i < t.size(0); ++i) levels.push_back(process.schedule().level(t[i].item<std::int64_t>()));
  return levels;
}

constexpr std::int64_t kTimesteps = 1000;  // of the linear schedule that the published numbers are for
constexpr VarianceType kSmall = VarianceType::fixed_small, kLarge = VarianceType::fixed_large,
                       kLearned = VarianceType::learned_range;

const DiffusionProcess& linear_process() {
  static const DiffusionProcess process{NoiseSchedule(DiffusionConfig{})};
  return process;
}

at::Tensor doubles(std::vector<double> values) { return at::tensor(values, at::kDouble); }

/// Every value as an image of one pixel.
at::Tensor pixels(const at::Tensor& values) { return values.reshape({-1, 1, 1, 1}); }

double total(const at::Tensor& values) { return values.sum().item<double>(); }

at::Tensor normals(std::uint64_t seed, at::IntArrayRef shape) {
  std::vector<std::uint64_t> positions(static_cast<std::size_t>(shape[0]));
  std::iota(positions.begin(), positions.end(), 0);
  return keyed_normal({.seed = seed}, positions, shape.slice(1)).to(at::kDouble);
}

/// bound_terms where x0_hat is known: eps_hat is what explains x_t with it.
BoundTerms terms_of_x0(const DiffusionProcess& process, VarianceType variance, const at::Tensor& x0_hat,
                       const at::Tensor& x_0, const at::Tensor& x_t, const at::Tensor& eps, const at::Tensor& t,
                       NormalCdf cdf = NormalCdf::tanh, const at::Tensor& fraction = {}) {
  return bound_terms(process, variance,
                     {x0_hat, read_output(PredictionType::x0, x_t, x0_hat, levels_at(process, t), 0.5).eps, fraction},
                     x_0, x_t, eps, t, cdf);
}

TEST(NormalKl, IsTheIntegralOfItsDefinition) {
  for (const auto& [m1, v1, m2, v2] : {std::array{0.3, 0.5, -0.2, 2.0}, std::array{1.0, 1.0, 1.0, 0.3},
                                       std::array{-2.0, 1.5, 0.5, 1.5}, std::array{0.0, 0.2, 0.0, 0.2}}) {
    const auto log_density = [](double x, double mean, double variance) {
      return -0.5 * std::log(2 * std::numbers::pi * variance) - (x - mean) * (x - mean) / (2 * variance);
    };
    // The trapezoid rule is exact to rounding for a function that falls to 0 so smoothly.
    constexpr double kReach = 25, kStep = 1e-2;
    double integral = 0;
    for (double x = -kReach; x <= kReach; x += kStep) {
      const double p = log_density(x, m1, v1), q = log_density(x, m2, v2);
      integral += std::exp(p) * (p - q) * kStep;
    }
    const double kl =
        normal_kl(doubles({m1}), doubles({std::log(v1)}), doubles({m2}), doubles({std::log(v2)})).item<double>();
    EXPECT_NEAR(kl, integral, 1e-12);
  }
}

TEST(DiscretizedGaussian, GivesTheTwoHundredFiftySixLevelsProbabilityOne) {
  const at::Tensor levels = at::arange(256, at::kDouble) / 127.5 - 1;
  for (const NormalCdf cdf : {NormalCdf::tanh, NormalCdf::erf}) {
    for (const double mean : {0.0, 0.31, -1.0, 0.97, 1.4}) {
      for (const double scale : {0.05, 0.3, 2.0}) {
        const at::Tensor log_probability = discretized_gaussian_log_likelihood(
            levels, at::full_like(levels, mean), at::full_like(levels, std::log(scale)), cdf);
        // Levels whose probability is below 1e-12 are raised to it, which adds less than 256e-12.
        EXPECT_NEAR(total(log_probability.exp()), 1, 3e-10) << mean << " " << scale;
      }
    }
  }
}

TEST(DiscretizedGaussian, IsTheIntegralOfTheDensityOverTheBin) {
  const double mean = 0.1, scale = 0.02;
  for (const int level : {130, 137, 140, 150}) {
    const double x = level / 127.5 - 1;
    double integral = 0;
    constexpr int kCells = 10'000;
    for (int cell = 0; cell < kCells; ++cell) {
      const double y = x - 1.0 / 255 + (cell + 0.5) * (2.0 / 255) / kCells, z = (y - mean) / scale;
      integral += std::exp(-z * z / 2) / (scale * std::sqrt(2 * std::numbers::pi)) * (2.0 / 255) / kCells;
    }
    const at::Tensor log_probability =
        discretized_gaussian_log_likelihood(doubles({x}), doubles({mean}), doubles({std::log(scale)}), NormalCdf::erf);
    EXPECT_NEAR(log_probability.exp().item<double>(), integral, 1e-9) << level;
  }
}

TEST(DiscretizedGaussian, TanhErrsByAsMuchAsIsKnown) {
  // With a bin's lower end at -inf the likelihood is the distribution function itself, so level -1 shows it.
  const at::Tensor z = at::linspace(-6, 6, 120'001, at::kDouble), x = at::full_like(z, -1.0);
  const at::Tensor mean = x + 1.0 / 255 - z, log_scale = at::zeros_like(z);
  const auto distribution = [&](NormalCdf cdf) {
    return discretized_gaussian_log_likelihood(x, mean, log_scale, cdf).exp();
  };
  EXPECT_LT((distribution(NormalCdf::erf) - 0.5 * (1 + (z / std::numbers::sqrt2).erf())).abs().max().item<double>(),
            1e-11);
  EXPECT_NEAR((distribution(NormalCdf::tanh) - distribution(NormalCdf::erf)).abs().max().item<double>(), 1.8e-4, 5e-6);
}

TEST(DiscretizedGaussian, IsNeverBelowTheLogOfTheLeastProbability) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const at::Tensor far = discretized_gaussian_log_likelihood(
        doubles({0, -1, 1}).to(type), doubles({1e6, 1e6, -1e6}).to(type), doubles({-5, -5, -5}).to(type));
    EXPECT_TRUE(far.allclose(at::full({3}, std::log(1e-12), type), 1e-6)) << far;
  }
}

// --- Table A: all images are one point c, and the network knows it
// ----------------------------------------------------

BoundTerms point_mass_terms(double c, VarianceType variance, NormalCdf cdf = NormalCdf::tanh) {
  const at::Tensor x_0 = at::full({kTimesteps, 1, 1, 1}, c, at::kDouble), t = at::arange(kTimesteps);
  const at::Tensor eps = normals(1, {kTimesteps, 1, 1, 1});
  return terms_of_x0(linear_process(), variance, x_0, x_0, q_sample(x_0, eps, levels_at(linear_process(), t)), eps, t,
                     cdf);
}

TEST(PointMass, SmallVarianceCostsNothingAndLargeVarianceItsKnownPrice) {
  EXPECT_EQ(total(point_mass_terms(0.2, kSmall).vb.slice(0, 1)), 0);
  EXPECT_NEAR(total(point_mass_terms(0.2, kLarge).vb.slice(0, 1)), 0.486419, 5e-7);
  const BoundTerms terms = point_mass_terms(0.2, kSmall);
  EXPECT_EQ(total(terms.x0_mse), 0);
  EXPECT_LT(terms.eps_mse.max().item<double>(), 1e-20);
}

TEST(PointMass, DecoderTermIsThePublishedOneInsideAndAtTheEdges) {
  const double inside = 140 / 127.5 - 1;
  for (const auto& [c, tanh, erf] :
       {std::tuple{inside, 1.305665, 1.305378}, {-1.0, 0.509908, 0.509825}, {1.0, 0.509908, 0.509825}}) {
    for (const VarianceType variance : {kSmall, kLarge}) {
      EXPECT_NEAR(point_mass_terms(c, variance, NormalCdf::tanh).vb[0].item<double>(), tanh, 5e-7) << c;
      EXPECT_NEAR(point_mass_terms(c, variance, NormalCdf::erf).vb[0].item<double>(), erf, 5e-7) << c;
    }
  }
}

TEST(PriorTerm, IsTheKnownTraceOfTheImageAndNothingWithZeroTerminalSnr) {
  const at::Tensor prior = prior_term(linear_process(), pixels(doubles({1, -1, 0})));
  EXPECT_NEAR(prior[0].item<double>(), 2.911295e-5, 5e-12);
  EXPECT_NEAR(prior[1].item<double>(), 2.911295e-5, 5e-12);
  EXPECT_NEAR(prior[2].item<double>(), 5.87e-10, 5e-13);
  EXPECT_NEAR(prior_term(linear_process(), at::ones({1, 3, 4, 4}, at::kFloat)).item<float>(), 2.911295e-5f, 1e-11f);

  const DiffusionProcess zero_snr{NoiseSchedule(DiffusionConfig{.zero_terminal_snr = true})};
  EXPECT_EQ(total(prior_term(zero_snr, pixels(doubles({1, -1, 0})))), 0);
}

// --- Table B: x_0 ~ N(mu, s^2), whose optimal network is affine
// --------------------------------------------------------

/// The terms at every timestep, averaged over x_0 and eps. Each is a polynomial of degree two in both, which the nodes
/// mean +- deviation integrate exactly.
struct GaussianData {
  explicit GaussianData(double deviation) : s(deviation) {
    const at::Tensor signs = doubles({1, 1, -1, -1}).repeat({kTimesteps}),
                     others = doubles({1, -1, 1, -1}).repeat({kTimesteps});
    t = at::arange(kTimesteps).repeat_interleave(4);
    x_0 = pixels(mu + s * signs);
    eps = pixels(others);
    x_t = q_sample(x_0, eps, levels_at(linear_process(), t));
    abar = pixels(doubles(linear_process().schedule().alphas_cumprod()).index_select(0, t));
    v = abar * s * s + 1 - abar;
    eps_hat = (1 - abar).sqrt() * (x_t - abar.sqrt() * mu) / v;
  }

  BoundTerms terms(VarianceType variance, const at::Tensor& fraction = {}) const {
    const at::Tensor x0_hat =
        read_output(PredictionType::epsilon, x_t, eps_hat, levels_at(linear_process(), t), 0.5).x0;
    const BoundTerms each = bound_terms(linear_process(), variance, {x0_hat, eps_hat, fraction}, x_0, x_t, eps, t);
    const auto average = [](const at::Tensor& values) { return values.view({kTimesteps, 4}).mean(1); };
    return {average(each.vb), average(each.x0_mse), average(each.eps_mse)};
  }

  /// Sum of L_{t-1} over t >= 1; the decoder is left out, since the data lie off the grid of levels.
  double rate(VarianceType variance, const at::Tensor& fraction = {}) const {
    return total(terms(variance, fraction).vb.slice(0, 1));
  }

  /// How far the optimal variance beta~ + c1^2 E(x_0 - x0_hat)^2 is from log beta~ to log beta.
  at::Tensor optimal_fraction() const {
    const auto table = [&](const std::vector<double>& values) { return pixels(doubles(values).index_select(0, t)); };
    const NoiseSchedule& schedule = linear_process().schedule();
    const at::Tensor x0_mse = s * s * (1 - abar) / v;
    const at::Tensor variance =
        table(schedule.posterior_variance()) + table(schedule.posterior_mean_coef_x0()).square() * x0_mse;
    const at::Tensor least = linear_process().posterior_log_variance(t, x_0);
    return (variance.log() - least) / (table(schedule.betas()).log() - least);
  }

  const double mu = 0.1;
  double s;
  at::Tensor t, x_0, eps, x_t, abar, v, eps_hat;
};

TEST(GaussianDataBound, HasThePublishedSumsForEachVariance) {
  const GaussianData narrow(0.5), wide(1.0);
  EXPECT_NEAR(narrow.rate(kSmall), 6.302437, 5e-7);
  EXPECT_NEAR(narrow.rate(kLarge), 5.645641, 5e-7);
  EXPECT_NEAR(narrow.rate(kLearned, narrow.optimal_fraction()), 5.644065, 5e-7);
  EXPECT_NEAR(wide.rate(kSmall), 7.314525, 5e-7);
  EXPECT_NEAR(wide.rate(kLarge), 6.643827, 5e-7);
  EXPECT_NEAR(wide.rate(kLearned, wide.optimal_fraction()), 6.643827, 5e-7);
}

TEST(GaussianDataBound, NoOtherVarianceBeatsTheOptimalOne) {
  const GaussianData data(0.5);
  const double optimal = data.rate(kLearned, data.optimal_fraction());
  for (const double shift : {-0.05, 0.05})
    EXPECT_GT(data.rate(kLearned, data.optimal_fraction() + shift), optimal + 1e-6);
}

TEST(GaussianDataBound, ErrorsAreTheFloorsOfTheirClosedForms) {
  for (const auto& [s, mean_floor] : {std::pair{0.5, 0.173053}, {1.0, 0.275513}}) {
    const GaussianData data(s);
    const BoundTerms terms = data.terms(kLarge);
    const at::Tensor abar = doubles(linear_process().schedule().alphas_cumprod()), v = abar * s * s + 1 - abar;
    EXPECT_TRUE(terms.eps_mse.allclose(abar * s * s / v, 1e-9, 1e-13));
    EXPECT_TRUE(terms.x0_mse.allclose(s * s * (1 - abar) / v, 1e-9, 1e-13));
    EXPECT_NEAR(terms.eps_mse.mean().item<double>(), mean_floor, 5e-7);
  }
}

// --- Table C: 256 levels, all as likely: 8 bits that no model can save -----------------------------------------------

/// Mean terms, with small and large variance, of the optimal network E(x_0 | x_t) over the lower half of the levels
/// (the upper is its mirror image) and `draws` values of eps for each: a golden-ratio lattice of quantiles, another at
/// each timestep, which errs less than random draws.
std::pair<double, double> mean_terms_of_levels(std::int64_t step, std::int64_t draws) {
  constexpr std::int64_t kLevels = 128;
  const at::Tensor levels = at::arange(256, at::kDouble) / 127.5 - 1;
  const at::Tensor x_0 = pixels(levels.slice(0, 0, kLevels).repeat_interleave(draws));
  const at::Tensor lattice = at::arange(kLevels * draws, at::kDouble) / std::numbers::phi + 0.5 +
                             static_cast<double>(step) * std::numbers::sqrt2;
  const at::Tensor eps = pixels(at::special_ndtri(lattice.frac()));
  const at::Tensor t = at::full({x_0.size(0)}, step, at::kLong),
                   x_t = q_sample(x_0, eps, levels_at(linear_process(), t));
  const NoiseLevel level = linear_process().schedule().level(step);
  const at::Tensor distance = (x_t.view({-1, 1}) - level.alpha * levels) / level.sigma;
  const at::Tensor x0_hat = pixels((distance.square() * -0.5).softmax(1).matmul(levels));
  const auto mean_vb = [&](VarianceType variance) {
    return terms_of_x0(linear_process(), variance, x0_hat, x_0, x_t, eps, t).vb.mean().item<double>();
  };
  return {mean_vb(kSmall), mean_vb(kLarge)};
}

TEST(UniformLevels, CostTheirEightBitsAndWhatTheProcessAdds) {
  const double decoder = mean_terms_of_levels(0, 64).first;
  double small = 0, large = 0;
  for (std::int64_t t = 1; t < kTimesteps; ++t) {
    const auto [of_small, of_large] = mean_terms_of_levels(t, t < 20 ? 32 : 2);  // the first are the largest
    small += of_small;
    large += of_large;
  }
  const double prior =
      prior_term(linear_process(), pixels(at::arange(256, at::kDouble) / 127.5 - 1)).mean().item<double>();
  // A dense quadrature (4001 nodes of eps at t = 0, 100 Gauss-Hermite nodes elsewhere) gives these.
  EXPECT_NEAR(decoder, 2.50354, 1e-3);
  EXPECT_NEAR(decoder + small + prior, 8.76114, 5e-3);
  EXPECT_NEAR(decoder + large + prior, 8.12709, 5e-3);
  // The reference's figures are means over 8192 images; -log2 p deviates by 1.73 from image to image at t = 0 alone.
  constexpr double kDeviation = 1.734756 / 90.51;
  EXPECT_NEAR(decoder, 2.511, 2 * kDeviation);
  EXPECT_NEAR(decoder + small + prior, 8.738, 2 * kDeviation);
  EXPECT_NEAR(decoder + large + prior, 8.121, 2 * kDeviation);
  EXPECT_GE(decoder + large + prior, 8);
}

// --- What holds for any prediction
// ---------------------------------------------------------------------------------------

struct RandomPrediction {
  explicit RandomPrediction(const DiffusionProcess& process, std::int64_t images = 64)
      : t((at::arange(images) * process.schedule().timesteps()).floor_divide(images)),
        x_0((normals(2, {images, 3, 4, 4}) * 60 + 127).round().clamp(0, 255) / 127.5 - 1),
        eps(normals(3, {images, 3, 4, 4})),
        x_t(q_sample(x_0, eps, levels_at(process, t))),
        x0_hat(x_0 + 0.02 * normals(4, {images, 3, 4, 4})),
        fraction(normals(5, {images, 3, 4, 4}).sigmoid()) {}
  at::Tensor t, x_0, eps, x_t, x0_hat, fraction;
};

TEST(BoundTermsOfAnyPrediction, AreTheLossOfSnrTimesTheErrorOfX0) {
  const RandomPrediction any(linear_process());
  const BoundTerms terms = terms_of_x0(linear_process(), kSmall, any.x0_hat, any.x_0, any.x_t, any.eps, any.t);
  EXPECT_TRUE(terms.x0_mse.allclose((any.x0_hat - any.x_0).square().mean({1, 2, 3})));
  for (std::int64_t i = 0; i < any.t.size(0); ++i) {
    const auto t = any.t[i].item<std::int64_t>();
    if (t == 0) continue;
    const NoiseSchedule& schedule = linear_process().schedule();
    const double expected =
        0.5 * (schedule.snr(t - 1) - schedule.snr(t)) * terms.x0_mse[i].item<double>() / std::numbers::ln2;
    EXPECT_NEAR(terms.vb[i].item<double>(), expected, 1e-9 * expected) << t;
  }
}

TEST(BoundTermsOfAnyPrediction, DoNotDependOnWhatElseIsInTheBatch) {
  const RandomPrediction any(linear_process());
  const auto terms = [&](const at::Tensor& rows) {
    const auto of = [&](const at::Tensor& whole) { return whole.index_select(0, rows); };
    return terms_of_x0(linear_process(), kLearned, of(any.x0_hat), of(any.x_0), of(any.x_t), of(any.eps), of(any.t),
                       NormalCdf::tanh, of(any.fraction));
  };
  const BoundTerms together = terms(at::arange(64));
  for (const std::int64_t i : {0, 1, 31, 63}) {
    const BoundTerms alone = terms(at::full({1}, i, at::kLong));
    EXPECT_TRUE(alone.vb.allclose(together.vb[i], 1e-12)) << i;
    EXPECT_TRUE(alone.eps_mse.allclose(together.eps_mse[i], 1e-12)) << i;
  }
}

TEST(BoundTermsOfAnyPrediction, LearnedRangeReachesFromSmallToBeta) {
  const RandomPrediction any(linear_process());
  const auto vb = [&](VarianceType variance, const at::Tensor& fraction = {}) {
    return terms_of_x0(linear_process(), variance, any.x0_hat, any.x_0, any.x_t, any.eps, any.t, NormalCdf::tanh,
                       fraction)
        .vb.slice(0, 1);  // at t = 0 fixed_large is beta~_1, not beta_0
  };
  EXPECT_TRUE(vb(kLearned, at::zeros_like(any.x_0)).allclose(vb(kSmall), 1e-12));
  EXPECT_TRUE(vb(kLearned, at::ones_like(any.x_0)).allclose(vb(kLarge), 1e-12));
  EXPECT_THROW(vb(kLearned), std::invalid_argument);
}

TEST(BoundTermsOfAnyPrediction, HaveTheGradientsOfFiniteDifferences) {
  const DiffusionProcess zero_snr{NoiseSchedule(DiffusionConfig{.timesteps = 8, .zero_terminal_snr = true})};
  for (const DiffusionProcess* process : {&linear_process(), &zero_snr}) {
    const RandomPrediction any(*process, 8);
    const at::Tensor weights = at::linspace(1, 2, 8, at::kDouble);
    const auto loss = [&](const at::Tensor& x0_hat, const at::Tensor& eps_hat, const at::Tensor& fraction) {
      const BoundTerms terms =
          bound_terms(*process, kLearned, {x0_hat, eps_hat, fraction}, any.x_0, any.x_t, any.eps, any.t);
      return ((terms.vb + terms.x0_mse + terms.eps_mse) * weights).sum();
    };
    std::vector<at::Tensor> inputs = {any.x0_hat.clone(), any.eps + 0.1 * normals(6, any.eps.sizes()),
                                      any.fraction.clone()};
    for (at::Tensor& input : inputs) input.set_requires_grad(true);
    loss(inputs[0], inputs[1], inputs[2]).backward();
    for (std::size_t which = 0; which < inputs.size(); ++which) {
      for (const std::uint64_t seed : {7, 8, 9}) {
        const at::Tensor direction = normals(seed, any.x_0.sizes());
        const auto moved = [&](double distance) {
          std::vector<at::Tensor> at_point;
          for (const at::Tensor& input : inputs) at_point.push_back(input.detach());
          at_point[which] = at_point[which] + distance * direction;
          return total(loss(at_point[0], at_point[1], at_point[2]));
        };
        constexpr double kStep = 1e-6;
        const double difference = (moved(kStep) - moved(-kStep)) / (2 * kStep);
        const double slope = total(inputs[which].grad() * direction);
        EXPECT_NEAR(slope, difference, 1e-6 * (std::abs(difference) + inputs[which].grad().norm().item<double>()))
            << which;
        EXPECT_NE(slope, 0);
      }
    }
  }
}

TEST(BoundTermsOfAnyPrediction, KeepFiniteGradientsInFloatWhereAnEarlyPredictionIsFarOff) {
  // x0_hat = (x - sigma eps_hat) / alpha reaches 1e6 at the last timestep of a long cosine schedule.
  const DiffusionProcess process{
      NoiseSchedule(DiffusionConfig{.timesteps = 4000, .beta_schedule = BetaSchedule::cosine})};
  const at::Tensor t = at::tensor({0L, 1L, 2000L, 3999L});
  const at::Tensor x_0 = at::zeros({4, 1, 2, 2}), eps = at::ones({4, 1, 2, 2}),
                   x_t = q_sample(x_0, eps, levels_at(process, t));
  at::Tensor x0_hat = at::full({4, 1, 2, 2}, 1e12f).set_requires_grad(true);
  const at::Tensor vb = terms_of_x0(process, kSmall, x0_hat, x_0, x_t, eps, t).vb;
  vb.sum().backward();
  EXPECT_TRUE(vb.isfinite().all().item<bool>()) << vb;
  EXPECT_TRUE(x0_hat.grad().isfinite().all().item<bool>()) << x0_hat.grad();
}

TEST(BoundTermsOfAnyPrediction, FloatIsAsGoodAsItsSixDigits) {
  const RandomPrediction any(linear_process());
  const BoundTerms exact = terms_of_x0(linear_process(), kLarge, any.x0_hat, any.x_0, any.x_t, any.eps, any.t);
  const auto f = [](const at::Tensor& values) { return values.to(at::kFloat); };
  const BoundTerms rounded =
      terms_of_x0(linear_process(), kLarge, f(any.x0_hat), f(any.x_0), f(any.x_t), f(any.eps), any.t);
  EXPECT_EQ(rounded.vb.scalar_type(), at::kFloat);
  EXPECT_TRUE(rounded.vb.to(at::kDouble).allclose(exact.vb, 1e-4, 1e-6)) << rounded.vb << exact.vb;
}

TEST(BoundTermsOfAnyPrediction, RefuseShapesThatDiffer) {
  const RandomPrediction any(linear_process());
  const at::Tensor half = any.x0_hat.slice(0, 0, 32);
  EXPECT_THROW(bound_terms(linear_process(), kLarge, {half, any.eps, {}}, any.x_0, any.x_t, any.eps, any.t),
               std::invalid_argument);
  EXPECT_THROW(bound_terms(linear_process(), kLarge, {any.x0_hat, half, {}}, any.x_0, any.x_t, any.eps, any.t),
               std::invalid_argument);
}

TEST(BoundTermsOfAnyPrediction, WeighTheErrorOfTheNoiseAsHoSays) {
  // Ho et al. 2020, eq. 12: L_{t-1} = beta^2 / (2 Sigma alpha (1 - abar)) |eps - eps_hat|^2, here with Sigma = beta~.
  const DiffusionProcess process{NoiseSchedule(DiffusionConfig{})};
  const at::Tensor t = at::tensor({1L, 20L, 500L, 999L});
  const at::Tensor x_0 = at::linspace(-1, 1, 48, at::kDouble).view({4, 3, 2, 2});
  const at::Tensor eps = (7 * x_0).sin(), eps_hat = (5 * x_0).cos();
  const auto levels = levels_at(process, t);
  const at::Tensor x_t = q_sample(x_0, eps, levels);
  const Prediction prediction = read_output(PredictionType::epsilon, x_t, eps_hat, levels, 0.5);
  const at::Tensor vb = bound_terms(process, VarianceType::fixed_small, prediction, x_0, x_t, eps, t).vb;
  for (std::int64_t i = 0; i < 4; ++i) {
    const auto step = static_cast<std::size_t>(t[i].item<std::int64_t>());
    const double beta = process.schedule().betas()[step], abar = process.schedule().alphas_cumprod()[step];
    const double weight = beta * beta / (2 * process.schedule().posterior_variance()[step] * (1 - beta) * (1 - abar));
    const double error = (eps[i] - eps_hat[i]).square().mean().item<double>();
    EXPECT_NEAR(vb[i].item<double>() / (weight * error / std::log(2.0)), 1, 1e-9) << step;
  }
}

}  // namespace
}  // namespace perrin::trainer
