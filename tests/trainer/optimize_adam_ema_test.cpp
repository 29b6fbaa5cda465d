#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "trainer/optimize/adam_ema.hpp"
#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/optimize/learning_rate.hpp"

namespace perrin::trainer {
namespace {

ParameterArena arena_of(std::int64_t size, std::size_t emas) {
  return {{{.name = "w", .shape = {size}}}, emas, /*seed=*/0, at::kCPU};
}

UpdateOutcome update(const AdamEma& adam, ParameterArena& arena, std::int64_t step, std::int64_t updates) {
  return adam.update(arena, gradient_norm(arena.gradients()), step, updates);
}

/// Adam as Kingma & Ba print it (algorithm 1), and the EMA's definition, in double precision for one scalar.
struct ScalarReference {
  double w, m = 0, v = 0, ema;
  int t = 0;

  void update(double g, const OptimizerConfig& c, double lr, double decay) {
    ++t;
    m = c.beta1 * m + (1 - c.beta1) * g;
    v = c.beta2 * v + (1 - c.beta2) * g * g;
    if (c.eps_form == AdamEpsilon::corrected) {
      w -= lr * (m / (1 - std::pow(c.beta1, t))) / (std::sqrt(v / (1 - std::pow(c.beta2, t))) + c.eps);
    } else {
      const double rate = lr * std::sqrt(1 - std::pow(c.beta2, t)) / (1 - std::pow(c.beta1, t));
      w -= rate * m / (std::sqrt(v) + c.eps);
    }
    ema = decay * ema + (1 - decay) * w;
  }
};

class AdamForms : public testing::TestWithParam<AdamEpsilon> {};
INSTANTIATE_TEST_SUITE_P(Epsilon, AdamForms, testing::Values(AdamEpsilon::corrected, AdamEpsilon::uncorrected));

TEST_P(AdamForms, FollowTheAlgorithmInDoublePrecision) {
  OptimizerConfig config{.lr = 0.01, .eps = 1e-3, .eps_form = GetParam(), .clip_norm = 0, .warmup_steps = 0};
  const EmaConfig ema{.decays = {0.9}, .warmup = false};
  const AdamEma adam(config, ema, /*total_steps=*/1000);
  ParameterArena arena = arena_of(3, 1);
  arena.weights().narrow(0, 0, 3).copy_(at::tensor({1.0F, -2.0F, 0.5F}));
  arena.emas()[0].copy_(arena.weights());
  std::vector<ScalarReference> reference = {{.w = 1.0, .ema = 1.0}, {.w = -2.0, .ema = -2.0}, {.w = 0.5, .ema = 0.5}};

  for (int step = 0; step < 50; ++step) {
    for (int i = 0; i < 3; ++i) {
      const float g = std::sin(1.0F + static_cast<float>(step * (i + 1)));
      arena.gradients()[i] = g;
      reference[static_cast<std::size_t>(i)].update(g, config, config.lr, 0.9);
    }
    update(adam, arena, step, step);
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(arena.weights()[i].item<double>(), reference[static_cast<std::size_t>(i)].w, 2e-6);
    EXPECT_NEAR(arena.emas()[0][i].item<double>(), reference[static_cast<std::size_t>(i)].ema, 2e-6);
  }
}

TEST(AdamEma, EpsilonsPlaceMattersAndBothAgreeWithoutIt) {
  // With eps = 0 the two customary forms are the same formula.
  std::vector<double> results;
  for (const AdamEpsilon form : {AdamEpsilon::corrected, AdamEpsilon::uncorrected})
    for (const double eps : {0.0, 0.1}) {
      ParameterArena arena = arena_of(1, 0);
      arena.weights().zero_();
      arena.gradients()[0] = 0.5F;
      update(AdamEma({.lr = 0.1, .eps = eps, .eps_form = form, .clip_norm = 0, .warmup_steps = 0}, {.decays = {}}, 10),
             arena, 0, 0);
      results.push_back(arena.weights()[0].item<double>());
    }
  EXPECT_NEAR(results[0], results[2], 1e-7);
  EXPECT_NEAR(results[1], -0.1 * 0.5 / (0.5 + 0.1), 1e-6);                         // mhat / (sqrt(vhat) + eps)
  EXPECT_NEAR(results[3], -0.1 * 0.5 / (0.5 + 0.1 / std::sqrt(1 - 0.999)), 1e-6);  // eps outside the correction
}

TEST(AdamEma, ClipsTheGlobalNormAndReportsItUnclipped) {
  ParameterArena arena = arena_of(4, 0);
  arena.weights().zero_();
  arena.gradients().narrow(0, 0, 2).copy_(at::tensor({30.0F, 40.0F}));
  const OptimizerConfig config{.lr = 1, .beta1 = 0, .beta2 = 0, .eps = 1, .clip_norm = 5, .warmup_steps = 0};
  const UpdateOutcome outcome = update(AdamEma(config, {.decays = {}}, 10), arena, 0, 0);
  EXPECT_NEAR(outcome.gradient_norm, 50.0, 1e-12);
  EXPECT_NEAR(arena.weights()[0].item<double>(), -3.0 / (3.0 + 1.0), 1e-6);  // gradient scaled by 5 / 50
  EXPECT_NEAR(arena.weights()[1].item<double>(), -4.0 / (4.0 + 1.0), 1e-6);
}

TEST(AdamEma, ANonFiniteGradientChangesNothing) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    ParameterArena arena = arena_of(5000, 2);
    arena.gradients().fill_(0.5F);
    AdamEma adam({}, {.decays = {0.9, 0.99}}, 10);
    update(adam, arena, 1, 0);
    std::vector<at::Tensor> before;
    for (const PersistentBuffer& buffer : arena.persistent()) before.push_back(buffer.values.clone());
    arena.gradients()[4321] = bad;
    EXPECT_TRUE(update(adam, arena, 2, 1).skipped);
    for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(at::equal(before[i], arena.persistent()[i].values));
  }
}

TEST(AdamEma, KeepsTheMatricesInTheComputeType) {
  const std::vector<ParameterSpec> specs = {
      {.name = "matrix", .shape = {60, 50}, .initializer = {Initializer::Kind::normal}},
      {.name = "bias", .shape = {60}}};
  ParameterArena arena(specs, 1, /*seed=*/3, at::kCPU, {}, at::kBFloat16);
  EXPECT_EQ(arena.leaves()[0].scalar_type(), at::kBFloat16);
  EXPECT_EQ(arena.leaves()[1].scalar_type(), at::kFloat);
  arena.gradients().copy_(at::arange(arena.plan().size(), at::kFloat).sin());
  const at::Tensor before = arena.leaves()[0].detach().clone();
  update(AdamEma({.lr = 0.01, .warmup_steps = 0}, {.decays = {0.99}}, 10), arena, 0, 0);
  const at::Tensor matrix = arena.layout().view(arena.weights(), arena.layout().ranges()[0]);
  EXPECT_TRUE(at::equal(arena.leaves()[0].detach(), matrix.to(at::kBFloat16))) << "rounded to nearest, ties to even";
  EXPECT_FALSE(at::equal(arena.leaves()[0].detach(), before));
  const at::Tensor predicts = arena.frozen(arena.emas()[0])("matrix");
  EXPECT_TRUE(at::equal(predicts, arena.layout().view(arena.emas()[0], arena.layout().ranges()[0]).to(at::kBFloat16)));
}

TEST(AdamEma, ThreadsDoNotShowInTheBits) {
  std::vector<at::Tensor> results;
  const int threads = at::get_num_threads();
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    ParameterArena arena = arena_of(100'003, 1);
    arena.gradients().copy_(at::arange(arena.plan().size(), at::kFloat).sin());
    update(AdamEma({.warmup_steps = 0}, {.decays = {0.99}}, 10), arena, 0, 0);
    results.push_back(at::cat({arena.weights(), arena.emas()[0], arena.adam_v()}));
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(results[0], results[1]));
  EXPECT_TRUE(at::equal(results[0], results[2]));
}

TEST(GradientNorm, IsTheEuclideanNormInDoublePrecision) {
  const at::Tensor flat = at::arange(25 * kNormBlock, at::kFloat).sin();
  EXPECT_NEAR(gradient_norm(flat), flat.to(at::kDouble).norm().item<double>(), 1e-10);
  EXPECT_EQ(gradient_norm(at::zeros({0})), 0.0);
  const double root = std::sqrt(static_cast<double>(kNormBlock));
  EXPECT_NEAR(gradient_norm(at::full({kNormBlock}, 3e38F)), 3e38 * root, 1e33);  // no overflow in fp64
  EXPECT_THROW(gradient_norm(at::zeros({kNormBlock + 1})), std::invalid_argument);
}

TEST(LearningRate, RisesFromZeroThenStaysOrFallsToZero) {
  OptimizerConfig config{.lr = 2.0, .warmup_steps = 4, .schedule = LrSchedule::constant};
  EXPECT_EQ(learning_rate(config, 0, 100), 0.0);
  EXPECT_EQ(learning_rate(config, 1, 100), 0.5);
  EXPECT_EQ(learning_rate(config, 4, 100), 2.0);
  EXPECT_EQ(learning_rate(config, 99, 100), 2.0);
  config.schedule = LrSchedule::cosine;
  EXPECT_EQ(learning_rate(config, 4, 104), 2.0);
  EXPECT_NEAR(learning_rate(config, 54, 104), 1.0, 1e-12);
  EXPECT_NEAR(learning_rate(config, 104, 104), 0.0, 1e-12);
  EXPECT_NEAR(learning_rate(config, 500, 104), 0.0, 1e-12);
}

TEST(EmaDecay, WarmsUpToItsValue) {
  EXPECT_EQ(ema_decay(0.999, false, 0), 0.999);
  EXPECT_EQ(ema_decay(0.999, true, 0), 0.1);
  EXPECT_EQ(ema_decay(0.999, true, 90), 0.91);
  EXPECT_EQ(ema_decay(0.999, true, 1'000'000), 0.999);
}

}  // namespace
}  // namespace perrin::trainer
