#pragma once

#include <cstdint>

#include "trainer/optimize/parameter_arena.hpp"
#include "trainer/progress.hpp"

namespace perrin::trainer {

/// Losses since the last recorded row.
struct LossWindow {
  double sum = 0;
  std::int64_t count = 0;

  bool operator==(const LossWindow&) const = default;
};

/// Everything that a step changes. Randomness is keyed by positions, so no generator's state is part of it.
struct TrainingState {
  ParameterArena arena;
  Progress progress;
  LossWindow losses;
};

}  // namespace perrin::trainer
