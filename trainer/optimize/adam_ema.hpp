#pragma once

#include <cstdint>
#include <functional>
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

/// Bytes that must cross to and from memory for the norm of the gradients (read) and one update: weights, gradients,
/// both moments and every EMA of what this rank owns read, all but the gradients written, and the weights' copy in the
/// compute type.
std::int64_t optimizer_pass_bytes(const ParameterArena& arena);

/// Global-norm clip, Adam, every EMA and the weights' copy in the compute type, over what this rank owns of the arena,
/// in one pass over memory. The arena holds
/// as many EMAs as there are ema.decays and ema.power_sigmas, in that order.
/// Adam: Kingma & Ba 2015, algorithm 1; OptimizerConfig::eps_form says where epsilon stands.
class AdamEma {
 public:
  /// @throws std::invalid_argument for a width that no power-function average has
  AdamEma(OptimizerConfig optimizer, EmaConfig ema, std::int64_t total_steps);

  /// Applies arena.gradients(), the mean over the global batch.
  /// @param norm    of the gradients (gradient_norm()), equal on all ranks
  /// @param step finished steps (sets the learning rate); @param updates earlier updates (sets Adam's t, the EMA
  /// warm-up and the power-function averages' t)
  /// @param updated called with each segment of the plan that has its new weights
  UpdateOutcome update(
      ParameterArena& arena, double norm, std::int64_t step, std::int64_t updates,
      const std::function<void(std::size_t)>& updated = [](std::size_t) {}) const;

 private:
  OptimizerConfig optimizer_;
  EmaConfig ema_;
  std::vector<double> power_gammas_;
  std::int64_t total_steps_;
};

}  // namespace perrin::trainer
