#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "trainer/diffusion/level_sampler.hpp"

namespace perrin::trainer {
namespace {

std::vector<std::uint64_t> positions_from(std::uint64_t first, std::size_t count) {
  std::vector<std::uint64_t> positions(count);
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

Config config_of(TimestepSampling sampling, PredictionType prediction = PredictionType::epsilon) {
  Config config;
  config.diffusion = {.timesteps = 100, .prediction = prediction};
  config.objective.timesteps = sampling;
  config.train.batch_size = 50;
  config.run.seed = 3;
  return config;
}

LevelSampler sampler_of(const Config& config) { return {config, NoiseSchedule(config.diffusion)}; }

std::vector<std::int64_t> timesteps(const LevelDraw& draw) {
  std::vector<std::int64_t> t;
  for (const NoiseLevel& level : draw.levels) t.push_back(level.t);
  return t;
}

double chi_squared(const std::vector<double>& counts, const std::vector<double>& expected) {
  double sum = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) sum += std::pow(counts[i] - expected[i], 2) / expected[i];
  return sum;
}

// A history whose losses have these roots of their mean squares.
LossHistory history_of(const std::vector<double>& losses) {
  LossHistory history(static_cast<std::int64_t>(losses.size()));
  for (std::size_t t = 0; t < losses.size(); ++t)
    for (std::int64_t i = 0; i < LossHistory::kLength; ++i) history.observe(static_cast<std::int64_t>(t), losses[t]);
  return history;
}

TEST(LevelSampler, DrawsTimestepsUniformly) {
  const LevelDraw draw =
      sampler_of(config_of(TimestepSampling::uniform)).draw(positions_from(0, 200'000), 0, LossHistory());
  std::vector<double> counts(100, 0);
  for (const std::int64_t t : timesteps(draw)) ++counts.at(static_cast<std::size_t>(t));
  const double found = chi_squared(counts, std::vector<double>(100, 2000));
  EXPECT_LT(found, 148.2);  // 99 degrees of freedom, exceeded with probability 0.001
  EXPECT_GT(found, 60.0);
  EXPECT_EQ(*std::min_element(draw.weights.begin(), draw.weights.end()), 1);
  EXPECT_EQ(*std::max_element(draw.weights.begin(), draw.weights.end()), 1);
}

TEST(LevelSampler, DrawsTheSameForAnySplitOfAGlobalBatch) {
  std::vector<double> losses(100);
  for (std::size_t t = 0; t < losses.size(); ++t) losses[t] = 1 + static_cast<double>(t);
  const LossHistory history = history_of(losses);
  for (const auto sampling : {TimestepSampling::uniform, TimestepSampling::stratified, TimestepSampling::importance}) {
    const LevelSampler sampler = sampler_of(config_of(sampling));
    const auto all = timesteps(sampler.draw(positions_from(150, 50), 150, history));
    for (const std::size_t first : {1u, 17u, 49u}) {
      auto split = timesteps(sampler.draw(positions_from(150, first), 150, history));
      const auto rest = timesteps(sampler.draw(positions_from(150 + first, 50 - first), 150, history));
      split.insert(split.end(), rest.begin(), rest.end());
      EXPECT_EQ(split, all);
    }
    EXPECT_NE(timesteps(sampler.draw(positions_from(200, 50), 200, history)), all);
  }
}

TEST(LevelSampler, AStratifiedBatchHasOneImageInEachPartOfTheRange) {
  const LevelSampler sampler = sampler_of(config_of(TimestepSampling::stratified));
  for (const std::uint64_t step : {0u, 1u, 1000u}) {
    const std::uint64_t first = step * 50;
    const auto t = timesteps(sampler.draw(positions_from(first, 50), first, LossHistory()));
    for (std::size_t i = 0; i < 50; ++i) EXPECT_EQ(t[i] / 2, static_cast<std::int64_t>(i)) << step;  // T / G = 2
  }
}

TEST(LevelSampler, ImportanceFollowsTheRootMeanSquareAndKeepsTheMean) {
  const std::vector<double> losses{4, 2, 1, 1};
  Config config = config_of(TimestepSampling::importance);
  config.diffusion.timesteps = 4;
  const LossHistory history = history_of(losses);
  const std::vector<double> p = history.probabilities();
  // Nichol & Dhariwal 2021, eq. 18: P(t) proportional to sqrt(E[L_t^2]), here 1/2, 1/4, 1/8, 1/8 but for one in 1000.
  for (std::size_t t = 0; t < 4; ++t) EXPECT_NEAR(p[t], losses[t] / 8 * 0.999 + 0.001 / 4, 1e-15);
  const LevelDraw draw = sampler_of(config).draw(positions_from(0, 100'000), 0, history);
  std::vector<double> counts(4, 0), expected;
  double mean_weighted_loss = 0;
  for (std::size_t i = 0; i < draw.levels.size(); ++i) {
    const auto t = static_cast<std::size_t>(draw.levels[i].t);
    ++counts[t];
    mean_weighted_loss += draw.weights[i] * losses[t] / 1e5;
  }
  for (const double share : p) expected.push_back(share * 1e5);
  EXPECT_LT(chi_squared(counts, expected), 16.3);  // 3 degrees of freedom, 0.001
  EXPECT_NEAR(mean_weighted_loss, 2, 1e-2);        // the mean of the losses at uniform timesteps
}

TEST(LossHistory, IsUniformUntilEveryTimestepHasTenLosses) {
  LossHistory history(3);
  for (int i = 0; i < 10; ++i) {
    history.observe(0, 5);
    history.observe(1, 1);
    if (i < 9) history.observe(2, 1);
  }
  EXPECT_EQ(history.probabilities(), std::vector<double>(3, 1.0 / 3));
  history.observe(2, 1);
  EXPECT_GT(history.probabilities()[0], 0.7);
}

TEST(LossHistory, ForgetsTheOldestLossAndPassesOverWhatIsNotFinite) {
  LossHistory history(1);
  for (int i = 0; i < 12; ++i) history.observe(0, i);
  history.observe(0, NAN);
  history.observe(0, INFINITY);
  EXPECT_EQ(history.losses(), (std::vector<double>{2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(LossHistory(history.losses(), history.counts()), history);
  EXPECT_THROW(LossHistory(std::vector<double>(9), {9}), std::invalid_argument);
  EXPECT_THROW(LossHistory(std::vector<double>(10), {11}), std::invalid_argument);
}

TEST(LevelSampler, EdmsLevelsAreLogNormal) {
  const LevelDraw draw = sampler_of(config_of(TimestepSampling::uniform, PredictionType::edm))
                             .draw(positions_from(0, 20'000), 0, LossHistory());
  double mean = 0, square = 0;
  for (const NoiseLevel& level : draw.levels) {
    EXPECT_EQ(level.alpha, 1);
    const double z = (std::log(level.sigma) + 1.2) / 1.2;
    mean += z / 20'000;
    square += z * z / 20'000;
  }
  EXPECT_NEAR(mean, 0, 4 / std::sqrt(20'000));
  EXPECT_NEAR(square, 1, 4 * std::sqrt(2 / 20'000.0));
}

TEST(LevelSampler, EdmStratifiesTheQuantilesOfSigma) {
  const LevelDraw draw = sampler_of(config_of(TimestepSampling::stratified, PredictionType::edm))
                             .draw(positions_from(50, 50), 50, LossHistory());
  for (std::size_t i = 0; i < 50; ++i) {
    EXPECT_EQ(static_cast<std::size_t>(draw.quantiles[i] * 50), i);
    const double cumulative = 0.5 * std::erfc(-(std::log(draw.levels[i].sigma) + 1.2) / 1.2 / std::sqrt(2));
    EXPECT_NEAR(cumulative, draw.quantiles[i], 1e-12);
  }
}

TEST(LevelSampler, EvaluationSpreadsLevelsEvenly) {
  const LevelSampler sampler = sampler_of(config_of(TimestepSampling::uniform));
  EXPECT_EQ(sampler.evenly(0, 10).t, 5);  // T = 100
  EXPECT_EQ(sampler.evenly(9, 10).t, 95);
  for (std::int64_t i = 0; i < 100; ++i) EXPECT_EQ(sampler.evenly(i, 100).t, i);
  const LevelSampler edm = sampler_of(config_of(TimestepSampling::uniform, PredictionType::edm));
  EXPECT_NEAR(edm.evenly(1, 3).sigma, std::exp(-1.2), 1e-12);  // the median
}

}  // namespace
}  // namespace perrin::trainer
