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

/// Global-norm clip, Adam and every EMA over the whole arena, in one pass over memory.
/// Adam: Kingma & Ba 2015, algorithm 1; OptimizerConfig::eps_form says where epsilon stands.
class AdamEma {
 public:
  AdamEma(OptimizerConfig optimizer, EmaConfig ema, std::int64_t total_steps);

  /// Applies arena.gradients(), the mean over the global batch.
  /// @param step finished steps (sets the learning rate); @param updates earlier updates (sets Adam's t and the EMA
  /// warm-up)
  UpdateOutcome update(ParameterArena& arena, std::int64_t step, std::int64_t updates) const;

 private:
  OptimizerConfig optimizer_;
  EmaConfig ema_;
  std::int64_t total_steps_;
};

}  // namespace perrin::trainer
