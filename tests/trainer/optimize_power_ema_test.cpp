#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "trainer/optimize/adam_ema.hpp"
#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/optimize/power_ema.hpp"

namespace perrin::trainer {
namespace {

/// The share of update i in an average made at update t: the profile's integral over (i - 1, i].
double share(double gamma, std::int64_t i, std::int64_t t) {
  const auto part = [&](std::int64_t end) {
    return std::pow(static_cast<double>(end) / static_cast<double>(t), gamma + 1);
  };
  return part(i) - part(i - 1);
}

double density(const PowerProfile& p, double tau) {
  const auto end = static_cast<double>(p.updates);
  return tau <= end ? (p.gamma + 1) / end * std::pow(tau / end, p.gamma) : 0;
}

/// Over (0, end) by the midpoint rule.
double integral(double end, const std::function<double(double)>& f) {
  constexpr int kPoints = 100'000;
  double sum = 0;
  for (int i = 0; i < kPoints; ++i) sum += f((i + 0.5) * end / kPoints);
  return sum * end / kPoints;
}

/// The two widths that Karras et al. store, `count` times in equal distances up to `updates`.
std::vector<PowerProfile> stored_profiles(int count, std::int64_t updates) {
  std::vector<PowerProfile> profiles;
  for (int k = 1; k <= count; ++k)
    for (const double sigma_rel : {0.05, 0.10}) profiles.push_back({updates * k / count, power_ema_gamma(sigma_rel)});
  return profiles;
}

TEST(PowerEma, GammaOfAWidthIsThatOfThePaper) {
  EXPECT_NEAR(power_ema_gamma(0.05), 16.97, 5e-3);
  EXPECT_NEAR(power_ema_gamma(0.10), 6.94, 5e-3);
  EXPECT_NEAR(power_ema_gamma(kWidestPowerEma * (1 - 1e-12)), 0, 1e-9);
  for (const double sigma_rel : {-0.1, 0.0, kWidestPowerEma, 0.5, std::nan("")})
    EXPECT_THROW(power_ema_gamma(sigma_rel), std::invalid_argument) << sigma_rel;
}

TEST(PowerEma, AWidthIsTheStandardDeviationOfItsProfile) {
  for (const double sigma_rel : {0.01, 0.05, 0.10, 0.20, 0.28}) {
    const PowerProfile profile{.updates = 1000, .gamma = power_ema_gamma(sigma_rel)};
    const double mean = integral(1000, [&](double tau) { return tau * density(profile, tau); });
    const double variance = integral(1000, [&](double tau) { return std::pow(tau - mean, 2) * density(profile, tau); });
    EXPECT_NEAR(std::sqrt(variance) / 1000, sigma_rel, 1e-6);
  }
}

TEST(PowerEma, UpdatesBuildUpTheProfileExactly) {
  for (const double sigma_rel : {0.05, 0.10, 0.25}) {
    const double gamma = power_ema_gamma(sigma_rel);
    std::vector<double> shares;
    for (std::int64_t t = 1; t <= 400; ++t) {
      const double weight = power_ema_weight(gamma, t);
      for (double& earlier : shares) earlier *= 1 - weight;
      shares.push_back(weight);
    }
    EXPECT_EQ(power_ema_weight(gamma, 1), 1.0);  // nothing is left of the initial weights
    for (std::int64_t i = 1; i <= 400; ++i)
      EXPECT_NEAR(shares[static_cast<std::size_t>(i - 1)], share(gamma, i, 400), 1e-14);
  }
}

TEST(PowerEma, WeightsOfLateUpdatesKeepTheirDigits) {
  const double gamma = power_ema_gamma(0.05);
  const double t = 1e12;  // 1 - (1 - 1/t)^(gamma + 1) in plain fp64 has four digits here
  EXPECT_NEAR(power_ema_weight(gamma, 1'000'000'000'000) * t / (gamma + 1), 1.0, 1e-10);
}

TEST(AdamEma, TracksPowerAveragesBesideTheOthers) {
  const EmaConfig ema{.decays = {0.9}, .power_sigmas = {0.05, 0.10}};
  const AdamEma adam({.lr = 0.05, .clip_norm = 0, .warmup_steps = 0}, ema, 1000);
  ParameterArena arena({{.name = "w", .shape = {300}}}, 3, /*seed=*/0, at::kCPU);
  arena.emas()[1].fill_(1e3);  // to be forgotten at once

  std::vector<at::Tensor> history;
  for (std::int64_t t = 1; t <= 80; ++t) {
    arena.gradients().copy_(at::arange(arena.plan().size(), at::kFloat).mul(0.1 * static_cast<double>(t)).sin());
    adam.update(arena, gradient_norm(arena.gradients()), t, t - 1);
    history.push_back(arena.weights().to(at::kDouble));
    if (t == 40) {  // a step that is skipped is no update
      arena.gradients()[7] = std::numeric_limits<float>::infinity();
      EXPECT_TRUE(adam.update(arena, gradient_norm(arena.gradients()), t, t).skipped);
    }
  }
  at::Tensor exponential = at::zeros_like(history[0]);
  for (const at::Tensor& weights : history) exponential.mul_(0.9).add_(weights, 0.1);
  EXPECT_LT((arena.emas()[0] - exponential).abs().max().item<double>(), 1e-5);
  for (const std::size_t i : {1, 2}) {
    const double gamma = power_ema_gamma(ema.power_sigmas[i - 1]);
    at::Tensor expected = at::zeros_like(history[0]);
    for (std::int64_t t = 1; t <= 80; ++t) expected.add_(history[static_cast<std::size_t>(t - 1)], share(gamma, t, 80));
    EXPECT_LT((arena.emas()[i] - expected).abs().max().item<double>(), 1e-5) << i;
  }
  EXPECT_THROW(AdamEma({}, {.power_sigmas = {0.3}}, 10), std::invalid_argument);
}

TEST(Profiles, HaveTheInnerProductsOfTheirIntegrals) {
  for (const PowerProfile& a : {PowerProfile{100, 16.97}, PowerProfile{70, 6.94}, PowerProfile{40, 0.5}})
    for (const PowerProfile& b : {PowerProfile{100, 16.97}, PowerProfile{90, 3.0}, PowerProfile{10, 6.94}}) {
      const double expected = integral(100, [&](double tau) { return density(a, tau) * density(b, tau); });
      EXPECT_NEAR(cosine(a, b) * norm(a) * norm(b), expected, 1e-4 * norm(a) * norm(b));
    }
}

TEST(Profiles, AStoredOneIsReconstructedAsItself) {
  const auto stored = stored_profiles(8, 1'000'000);
  const ProfileFit fit = fit_profile(stored, stored[15]);
  for (std::size_t i = 0; i < stored.size(); ++i) EXPECT_NEAR(fit.weights[i], i == 15 ? 1 : 0, 1e-6);
  EXPECT_LT(fit.residual, 1e-6);
}

TEST(Profiles, NoOtherWeightsOfSumOneComeNearer) {
  const auto stored = stored_profiles(4, 100);
  const PowerProfile target{.updates = 100, .gamma = power_ema_gamma(0.13)};
  const auto distance = [&](const std::vector<double>& weights) {
    return std::sqrt(integral(100, [&](double tau) {
      double sum = -density(target, tau);
      for (std::size_t i = 0; i < weights.size(); ++i) sum += weights[i] * density(stored[i], tau);
      return sum * sum;
    }));
  };
  const ProfileFit fit = fit_profile(stored, target);
  EXPECT_NEAR(std::accumulate(fit.weights.begin(), fit.weights.end(), 0.0), 1.0, 1e-12);
  const double least = distance(fit.weights);
  EXPECT_NEAR(fit.residual, least / norm(target), 1e-4);
  for (std::size_t i = 0; i < stored.size(); ++i)
    for (const double change : {-0.02, 0.02}) {
      auto other = fit.weights;
      other[i] += change;
      other[(i + 3) % other.size()] -= change;
      EXPECT_GT(distance(other), least * (1 + 1e-6));
    }
}

TEST(Profiles, EqualOnesShareTheirWeight) {
  const auto once = stored_profiles(6, 3000);
  auto twice = once;
  twice.insert(twice.end(), once.begin(), once.end());
  const PowerProfile target{.updates = 3000, .gamma = power_ema_gamma(0.13)};
  const ProfileFit single = fit_profile(once, target), pair = fit_profile(twice, target);
  EXPECT_NEAR(pair.residual, single.residual, 1e-6);
  for (std::size_t i = 0; i < once.size(); ++i)
    EXPECT_NEAR(pair.weights[i] + pair.weights[i + once.size()], single.weights[i], 1e-4);
}

TEST(Profiles, WhatEndsBeforeTheTargetIsRefused) {
  const auto stored = stored_profiles(8, 1000);
  try {
    fit_profile(stored, {.updates = 1001, .gamma = 3});
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("update 1001"), testing::HasSubstr("update 1000")));
  }
  EXPECT_THROW(fit_profile({}, {.updates = 1, .gamma = 3}), std::invalid_argument);
  EXPECT_THROW(fit_profile(stored, {.updates = 0, .gamma = 3}), std::invalid_argument);
  // An average from between two snapshots can only be approached, and the residual says how badly.
  EXPECT_GT(fit_profile(stored, {.updates = 940, .gamma = power_ema_gamma(0.1)}).residual, 0.3);
}

/// A random walk [updates, parameters] from weights of norm 1 each, that moves them by a half in all.
std::vector<std::vector<double>> random_walk(std::int64_t updates, std::size_t parameters) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  std::vector<double> theta(parameters);
  for (double& weight : theta) weight = normal(random);
  std::vector<std::vector<double>> walk;
  for (std::int64_t t = 0; t < updates; ++t) {
    for (double& weight : theta) weight += 0.5 / std::sqrt(static_cast<double>(updates)) * normal(random);
    walk.push_back(theta);
  }
  return walk;
}

/// The average of a walk that updates would have made, by the recurrence.
std::vector<double> tracked(const std::vector<std::vector<double>>& walk, const PowerProfile& profile) {
  std::vector<double> average(walk[0].size());
  for (std::int64_t t = 1; t <= profile.updates; ++t) {
    const double weight = power_ema_weight(profile.gamma, t);
    const auto& theta = walk[static_cast<std::size_t>(t - 1)];
    for (std::size_t i = 0; i < average.size(); ++i) average[i] += weight * (theta[i] - average[i]);
  }
  return average;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) squares += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(squares);
}

TEST(Reconstruction, ComesToAnAverageThatWasTrackedWithItsWidth) {
  constexpr std::int64_t kUpdates = 3200;
  const auto walk = random_walk(kUpdates, 200);
  for (const double sigma_rel : {0.075, 0.13, 0.2}) {
    const PowerProfile target{.updates = kUpdates, .gamma = power_ema_gamma(sigma_rel)};
    const std::vector<double> direct = tracked(walk, target);
    const double moved = distance(direct, walk.back());
    double before = std::numeric_limits<double>::infinity();
    for (const int count : {2, 4, 8, 16, 32, 64}) {
      const auto stored = stored_profiles(count, kUpdates);
      const ProfileFit fit = fit_profile(stored, target);
      std::vector<double> sum(direct.size());
      for (std::size_t i = 0; i < stored.size(); ++i) {
        const std::vector<double> average = tracked(walk, stored[i]);
        for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += fit.weights[i] * average[k];
      }
      // In units of what the average differs by from the weights of the end: nothing of the weights' size helps.
      const double error = distance(sum, direct) / moved;
      EXPECT_LT(error, before) << sigma_rel << " from " << count;
      EXPECT_LT(error, 1.1 * fit.residual) << sigma_rel << " from " << count;
      before = error;
    }
    EXPECT_LT(before, 2e-4) << sigma_rel;
  }
}

}  // namespace
}  // namespace perrin::trainer
