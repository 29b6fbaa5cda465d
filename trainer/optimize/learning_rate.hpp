#pragma once

#include <cstdint>

#include "trainer/config.hpp"

namespace perrin::trainer {

/// Learning rate of the step that follows `step` finished ones: lr * min(step / warmup, 1) as Ho et al. 2020 (the first
/// step of a warm-up has rate 0), then constant, or half a cosine that reaches 0 at `total_steps`.
double learning_rate(const OptimizerConfig& config, std::int64_t step, std::int64_t total_steps);

/// EMA decay of the update that follows `updates` earlier ones: `decay`, or with warm-up min(decay, (1 + n) / (10 +
/// n)).
double ema_decay(double decay, bool warmup, std::int64_t updates);

}  // namespace perrin::trainer
