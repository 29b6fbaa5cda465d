#pragma once

#include <cstdint>
#include <vector>

#include "trainer/config.hpp"
#include "trainer/optimize/parameter_arena.hpp"

namespace perrin::trainer {

/// What one update did.
struct UpdateOutcome {
  double gradient_norm = 0;  ///< before clipping
  double lr = 0;
  bool skipped = false;  ///< the gradient was not finite: weights, moments and EMAs are as before
};

/// Global-norm clip, Adam and every EMA over the whole arena, in one pass over memory. The arena holds as many EMAs as
/// there are ema.decays and ema.power_sigmas, in that order.
/// Adam: Kingma & Ba 2015, algorithm 1; OptimizerConfig::eps_form says where epsilon stands.
class AdamEma {
 public:
  /// @throws std::invalid_argument for a width that no power-function average has
  AdamEma(OptimizerConfig optimizer, EmaConfig ema, std::int64_t total_steps);

  /// Applies arena.gradients(), the mean over the global batch.
  /// @param step finished steps (sets the learning rate); @param updates earlier updates (sets Adam's t, the EMA
  /// warm-up and the power-function averages' t)
  UpdateOutcome update(ParameterArena& arena, std::int64_t step, std::int64_t updates) const;

 private:
  OptimizerConfig optimizer_;
  EmaConfig ema_;
  std::vector<double> power_gammas_;
  std::int64_t total_steps_;
};

}  // namespace perrin::trainer
