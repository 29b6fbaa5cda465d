#include "trainer/diffusion/level_sampler.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

double normal_quantile(double u) { return at::special_ndtri(at::scalar_tensor(u, at::kDouble)).item<double>(); }

/// floor(T u), within the range also where rounding says T.
std::int64_t timestep_at(double u, std::int64_t T) {
  return std::min(static_cast<std::int64_t>(u * static_cast<double>(T)), T - 1);
}

std::vector<double> running_sum(std::vector<double> values) {
  double sum = 0;
  for (double& value : values) value = sum += value;
  return values;
}

}  // namespace

LevelSampler::LevelSampler(const Config& config, NoiseSchedule schedule)
    : seed_(config.run.seed),
      global_batch_(config.train.batch_size),
      prediction_(config.diffusion.prediction),
      sampling_(config.objective.timesteps),
      edm_(config.edm),
      schedule_(std::move(schedule)) {}

LevelDraw LevelSampler::draw(std::span<const std::uint64_t> positions, std::uint64_t first,
                             const LossHistory& history) const {
  const std::int64_t T = schedule_.timesteps();
  const bool importance = sampling_ == TimestepSampling::importance;
  const std::vector<double> probabilities = importance ? history.probabilities() : std::vector<double>{};
  const std::vector<double> cumulative = running_sum(probabilities);
  LevelDraw drawn;
  for (const std::uint64_t position : positions) {
    double u = keyed_uniform({.seed = seed_, .purpose = Purpose::timestep}, position);
    double weight = 1;
    if (sampling_ == TimestepSampling::stratified)
      u = (static_cast<double>(position - first) + u) / static_cast<double>(global_batch_);
    if (prediction_ == PredictionType::edm) {
      drawn.levels.push_back(edm_level(u));
      drawn.quantiles.push_back(u);
    } else {
      std::int64_t t = timestep_at(u, T);
      if (importance) {
        t = std::min<std::int64_t>(
            std::upper_bound(cumulative.begin(), cumulative.end(), u * cumulative.back()) - cumulative.begin(), T - 1);
        weight = 1 / (static_cast<double>(T) * probabilities[static_cast<std::size_t>(t)]);
      }
      drawn.levels.push_back(schedule_.level(t));
      drawn.quantiles.push_back(static_cast<double>(t) / static_cast<double>(T));
    }
    drawn.weights.push_back(weight);
  }
  return drawn;
}

NoiseLevel LevelSampler::evenly(std::int64_t i, std::int64_t n) const {
  if (prediction_ == PredictionType::edm) return edm_level((static_cast<double>(i) + 0.5) / static_cast<double>(n));
  return schedule_.level((2 * i + 1) * schedule_.timesteps() / (2 * n));
}

NoiseLevel LevelSampler::edm_level(double quantile) const {
  return {.alpha = 1, .sigma = std::exp(edm_.p_mean + edm_.p_std * normal_quantile(quantile))};
}

}  // namespace perrin::trainer
