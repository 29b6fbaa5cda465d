#pragma once

#include "trainer/diffusion/loss_history.hpp"
#include "trainer/loss_window.hpp"
#include "trainer/optimize/parameter_arena.hpp"
#include "trainer/progress.hpp"

namespace perrin::trainer {

/// Everything that a step changes. Randomness is keyed by positions, so no generator's state is part of it.
struct TrainingState {
  ParameterArena arena;
  Progress progress;
  LossWindow losses;
  LossHistory loss_history;  ///< empty unless objective.timesteps is importance
};

}  // namespace perrin::trainer
