#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/diffusion/objective.hpp"
#include "trainer/model/initialize.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {
namespace {

at::Tensor wave(at::IntArrayRef shape, double phase) {
  return at::arange(at::prod(at::tensor(shape)).item<std::int64_t>(), at::kDouble)
      .add_(phase)
      .mul_(0.7)
      .sin_()
      .view(shape);
}

// A small U-Net in double precision whose output layers are alive.
struct SmallNetwork {
  SmallNetwork(const Config& config, data::ImageShape shape)
      : model(with_output_channels(config.model, shape, config.diffusion.variance_type)) {
    for (ParameterSpec spec : unet_parameters(model, shape)) {
      if (spec.initializer.kind == Initializer::Kind::xavier_uniform) spec.initializer.scale = 1;
      at::Tensor weight = at::empty(spec.shape, at::kDouble);
      initialize(spec, weight, 5);
      weights[spec.name] = weight.requires_grad_();
    }
    unet.emplace(
        model, shape, [&](const std::string& name) { return weights.at(name); }, at::MemoryFormat::Contiguous);
  }
  Network network() const {
    return [this](const at::Tensor& x, const at::Tensor& condition) { return (*unet)(x, condition); };
  }

  ModelConfig model;
  std::map<std::string, at::Tensor> weights;
  std::optional<UNet> unet;
};

constexpr data::ImageShape kImage{1, 4, 4};

Config small_config() {
  Config config;
  config.model = {
      .block_out_channels = {4, 8}, .layers_per_block = 1, .attention_resolutions = {2}, .norm_num_groups = 2};
  config.diffusion.timesteps = 50;
  return config;
}

struct Case {
  std::string name;
  PredictionType prediction;
  VarianceType variance;
  LossType loss;
  double gamma;
};

std::vector<NoiseLevel> levels_for(const Config& config, const NoiseSchedule& schedule) {
  if (config.diffusion.prediction == PredictionType::edm) return {{1, 0.02}, {1, 0.6}, {1, 7}};
  return {schedule.level(0), schedule.level(1), schedule.level(40)};  // the decoder's timestep too
}

class EveryObjective : public testing::TestWithParam<Case> {};

TEST_P(EveryObjective, HasTheGradientOfItsFiniteDifferences) {
  Config config = small_config();
  config.diffusion.prediction = GetParam().prediction;
  config.diffusion.variance_type = GetParam().variance;
  config.objective = {.loss = GetParam().loss, .vlb_weight = 0.3, .min_snr_gamma = GetParam().gamma};
  const NoiseSchedule schedule(config.diffusion);
  const DiffusionProcess process(schedule);
  const Objective objective(config, process);
  SmallNetwork network(config, kImage);
  // Pixels at three of the 256 levels, the outer two among them.
  const at::Tensor x_0 = (wave({3, 1, 4, 4}, 1) * 1.4).round() * (254.0 / 255) + at::zeros({3, 1, 4, 4}, at::kDouble);
  const at::Tensor eps = wave({3, 1, 4, 4}, 9);
  const auto levels = levels_for(config, schedule);
  const auto loss = [&] {
    return objective.terms(network.network(), objective.noised(x_0, eps, levels), levels).loss.sum();
  };
  const ObjectiveTerms terms = objective.terms(network.network(), objective.noised(x_0, eps, levels), levels);
  ASSERT_EQ(terms.loss.sizes(), (std::vector<std::int64_t>{3}));
  terms.loss.sum().backward();

  // Along a direction over all weights, and along one over each fifth parameter alone.
  double expected = 0;
  std::map<std::string, at::Tensor> direction;
  std::size_t phase = 0;
  for (auto& [name, weight] : network.weights) {
    ASSERT_TRUE(weight.grad().defined()) << name;
    direction[name] = wave(weight.sizes(), static_cast<double>(++phase));
    expected += (direction[name] * weight.grad()).sum().item<double>();
  }
  const double h = 1e-6;
  const auto derivative = [&](const std::vector<std::string>& names) {
    const at::NoGradGuard no_grad;
    const auto moved = [&](double by) {
      for (const std::string& name : names) network.weights.at(name).add_(direction.at(name), by);
      return loss().item<double>();
    };
    const double up = moved(h), down = moved(-2 * h);
    moved(h);  // back
    return (up - down) / (2 * h);
  };
  std::vector<std::string> all;
  for (const auto& [name, weight] : network.weights) all.push_back(name);
  // A difference of losses of size L is rounded to about L * 2^-52, and divided by h.
  const double rounding = 1e-9 * std::abs(terms.loss.sum().item<double>());
  EXPECT_NEAR(derivative(all), expected, 2e-6 * std::max(1.0, std::abs(expected)) + rounding);
  for (std::size_t i = 0; i < all.size(); i += 5) {
    const double alone = (direction[all[i]] * network.weights.at(all[i]).grad()).sum().item<double>();
    EXPECT_NEAR(derivative({all[i]}), alone, 2e-6 * std::max(1.0, std::abs(alone)) + rounding) << all[i];
  }
}

INSTANTIATE_TEST_SUITE_P(
    Objectives, EveryObjective,
    testing::Values(Case{"epsilon", PredictionType::epsilon, VarianceType::fixed_large, LossType::simple, 0},
                    Case{"x0", PredictionType::x0, VarianceType::fixed_large, LossType::simple, 0},
                    Case{"v", PredictionType::v, VarianceType::fixed_large, LossType::simple, 0},
                    Case{"edm", PredictionType::edm, VarianceType::fixed_large, LossType::simple, 0},
                    Case{"epsilon_min_snr", PredictionType::epsilon, VarianceType::fixed_large, LossType::simple, 5},
                    Case{"x0_min_snr", PredictionType::x0, VarianceType::fixed_large, LossType::simple, 5},
                    Case{"v_min_snr", PredictionType::v, VarianceType::fixed_large, LossType::simple, 5},
                    Case{"epsilon_vlb_small", PredictionType::epsilon, VarianceType::fixed_small, LossType::vlb, 0},
                    Case{"epsilon_vlb_learned", PredictionType::epsilon, VarianceType::learned_range, LossType::vlb, 0},
                    Case{"x0_vlb_learned", PredictionType::x0, VarianceType::learned_range, LossType::vlb, 0},
                    Case{"v_vlb_large", PredictionType::v, VarianceType::fixed_large, LossType::vlb, 0}),
    [](const auto& test) { return test.param.name; });

// Of a network whose output is F, whatever it reads.
ObjectiveTerms terms_of(const Objective& objective, const at::Tensor& F, const at::Tensor& x_0, const at::Tensor& eps,
                        const std::vector<NoiseLevel>& levels) {
  return objective.terms([&](const at::Tensor&, const at::Tensor&) { return F; }, objective.noised(x_0, eps, levels),
                         levels);
}

// The hybrid is below: its bound does not reach the mean, so that its gradient is no derivative by all weights.
// The network's output as a free tensor: what reaches its mean and its variance channels.
class HybridObjective : public testing::Test {
 protected:
  static ObjectiveTerms terms(LossType loss, const at::Tensor& F, PredictionType prediction = PredictionType::epsilon) {
    Config config = small_config();
    config.diffusion.prediction = prediction;
    config.diffusion.variance_type = VarianceType::learned_range;
    config.objective = {.loss = loss, .vlb_weight = 0.3};
    const NoiseSchedule schedule(config.diffusion);
    const DiffusionProcess process(schedule);
    const std::vector<NoiseLevel> levels{schedule.level(0), schedule.level(1), schedule.level(40)};
    return terms_of(Objective(config, process), F, wave({3, 1, 4, 4}, 1), wave({3, 1, 4, 4}, 9), levels);
  }
  static at::Tensor gradient(LossType loss, PredictionType prediction = PredictionType::epsilon) {
    at::Tensor F = wave({3, 2, 4, 4}, 3).requires_grad_();
    terms(loss, F, prediction).loss.sum().backward();
    return F.grad();
  }
};

TEST_F(HybridObjective, HasTheGradientOfItsFiniteDifferencesInEachOfItsParts) {
  const double h = 1e-6;
  for (const auto& [prediction, channel] : {std::pair{PredictionType::epsilon, 0},
                                            {PredictionType::epsilon, 1},
                                            {PredictionType::x0, 1},
                                            {PredictionType::v, 0},
                                            {PredictionType::v, 1}}) {
    // Channel 0, the mean: of L_simple alone; channel 1, the variance: of the whole loss.
    const at::Tensor F = wave({3, 2, 4, 4}, 3), found = gradient(LossType::hybrid, prediction);
    at::Tensor step = at::zeros_like(F);
    step.narrow(1, channel, 1).copy_(wave({3, 1, 4, 4}, 21));
    const auto loss = [&, prediction = prediction, channel = channel](double by) {
      const ObjectiveTerms moved = terms(LossType::hybrid, F + by * step, prediction);
      return (channel == 0 ? moved.simple : moved.loss).sum().item<double>();
    };
    EXPECT_NEAR((loss(h) - loss(-h)) / (2 * h), (found * step).sum().item<double>(), 1e-6) << channel;
  }
}

TEST_F(HybridObjective, MovesTheMeanAsLSimpleAndTheVarianceAsTheBound) {
  const at::Tensor hybrid = gradient(LossType::hybrid), simple = gradient(LossType::simple),
                   vlb = gradient(LossType::vlb);
  EXPECT_TRUE(hybrid.narrow(1, 0, 1).allclose(simple.narrow(1, 0, 1), 0, 1e-14));
  EXPECT_TRUE(hybrid.narrow(1, 1, 1).allclose(0.3 * vlb.narrow(1, 1, 1), 1e-12, 1e-14));
  EXPECT_GT(vlb.narrow(1, 0, 1).abs().max().item<double>(), 0);  // what was kept from the mean
  EXPECT_GT(vlb.narrow(1, 1, 1).abs().max().item<double>(), 0);
}

TEST(Objective, MinSnrWeighsTheErrorOfTheImageTheSameForEveryPrediction) {
  // Hang et al. 2023, section 3.4: min(SNR, gamma) |x0_hat - x_0|^2, whatever the network predicts.
  for (const PredictionType prediction : {PredictionType::epsilon, PredictionType::x0, PredictionType::v}) {
    Config config = small_config();
    config.diffusion.prediction = prediction;
    config.objective.min_snr_gamma = 5;
    const NoiseSchedule schedule(config.diffusion);
    const DiffusionProcess process(schedule);
    const at::Tensor x_0 = wave({3, 1, 4, 4}, 1), eps = wave({3, 1, 4, 4}, 9), F = wave({3, 1, 4, 4}, 4);
    const std::vector<NoiseLevel> levels{schedule.level(2), schedule.level(20), schedule.level(49)};
    const at::Tensor loss = terms_of(Objective(config, process), F, x_0, eps, levels).loss;
    const at::Tensor x0_hat = read_output(prediction, q_sample(x_0, eps, levels), F, levels, 0.5).x0;
    for (std::int64_t i = 0; i < 3; ++i) {
      const double weight = std::min(schedule.snr(levels[static_cast<std::size_t>(i)].t), 5.0);
      EXPECT_NEAR(loss[i].item<double>() / (weight * (x0_hat[i] - x_0[i]).square().mean().item<double>()), 1, 1e-10);
    }
  }
}

TEST(Objective, EdmsWeightMakesEveryLevelCountAsOne) {
  // Karras et al. 2022, table 1: lambda(sigma) |D - x_0|^2 with lambda = (sigma^2 + sigma_data^2) / (sigma
  // sigma_data)^2.
  Config config = small_config();
  config.diffusion.prediction = PredictionType::edm;
  const DiffusionProcess process{NoiseSchedule(config.diffusion)};
  const at::Tensor x_0 = wave({2, 1, 4, 4}, 1), eps = wave({2, 1, 4, 4}, 9), F = wave({2, 1, 4, 4}, 4);
  const std::vector<NoiseLevel> levels{{1, 0.3}, {1, 12}};
  const at::Tensor loss = terms_of(Objective(config, process), F, x_0, eps, levels).loss;
  const at::Tensor D = read_output(PredictionType::edm, q_sample(x_0, eps, levels), F, levels, 0.5).x0;
  for (std::int64_t i = 0; i < 2; ++i) {
    const double sigma = levels[static_cast<std::size_t>(i)].sigma;
    const double lambda = (sigma * sigma + 0.25) / std::pow(sigma * 0.5, 2);
    EXPECT_NEAR(loss[i].item<double>() / (lambda * (D[i] - x_0[i]).square().mean().item<double>()), 1, 1e-10);
  }
}

TEST(Objective, TheMeanOfTheBoundOverAllTimestepsIsItsSum) {
  Config config = small_config();
  config.objective.loss = LossType::vlb;
  const NoiseSchedule schedule(config.diffusion);
  const DiffusionProcess process(schedule);
  const at::Tensor x_0 = wave({50, 1, 4, 4}, 1), eps = wave({50, 1, 4, 4}, 9), F = wave({50, 1, 4, 4}, 4);
  std::vector<NoiseLevel> levels;
  for (std::int64_t t = 0; t < 50; ++t) levels.push_back(schedule.level(t));
  const Objective objective(config, process);
  const ObjectiveTerms terms = terms_of(objective, F, x_0, eps, levels);
  EXPECT_TRUE(terms.loss.equal(terms.bound));
  EXPECT_TRUE(terms.simple.allclose((F - eps).square().mean({1, 2, 3}), 0, 1e-14));
  EXPECT_NEAR(terms.loss.mean().item<double>(), (terms.bound / 50).sum().item<double>(), 1e-12);
}

}  // namespace
}  // namespace perrin::trainer
