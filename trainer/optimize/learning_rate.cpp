#include "trainer/optimize/learning_rate.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace perrin::trainer {

double learning_rate(const OptimizerConfig& config, std::int64_t step, std::int64_t total_steps) {
  if (step < config.warmup_steps)
    return config.lr * static_cast<double>(step) / static_cast<double>(config.warmup_steps);
  if (config.schedule == LrSchedule::constant) return config.lr;
  const double decaying = static_cast<double>(std::max<std::int64_t>(total_steps - config.warmup_steps, 1));
  const double done = std::min(static_cast<double>(step - config.warmup_steps) / decaying, 1.0);
  return config.lr * 0.5 * (1.0 + std::cos(std::numbers::pi * done));
}

double ema_decay(double decay, bool warmup, std::int64_t updates) {
  if (!warmup) return decay;
  const double n = static_cast<double>(updates);
  return std::min(decay, (1.0 + n) / (10.0 + n));
}

}  // namespace perrin::trainer
