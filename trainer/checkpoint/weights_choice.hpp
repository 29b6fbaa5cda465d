#pragma once

#include <cstddef>
#include <string>
#include <variant>

#include "trainer/checkpoint/manifest.hpp"

namespace perrin::trainer {

/// The weights as the optimizer left them.
struct RawWeights {};
/// The average that a checkpoint stores as ema-<index>.
struct StoredAverage {
  std::size_t index = 0;
};
/// The power-function average of this relative width, reconstructed from stored ones.
struct PostHocAverage {
  double sigma_rel = 0;
};

/// Which weights of a checkpoint are meant.
using WeightsChoice = std::variant<RawWeights, StoredAverage, PostHocAverage>;

/// Reads "raw", "ema" (the first of ema.decays), "ema-N" (as the files are named) or "posthoc-SIGMA".
/// @throws std::invalid_argument saying what there is
WeightsChoice parse_weights_choice(const std::string& text);

/// What a choice is called wherever weights are named: "raw", "EMA 0.9999", "power EMA 0.05", "post-hoc EMA 0.13".
/// @throws std::invalid_argument for an average that is not stored, listing those that are
std::string name_of(const WeightsChoice& choice, const CheckpointOrigin& origin);

}  // namespace perrin::trainer
