#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "trainer/config.hpp"
#include "trainer/diffusion/loss_history.hpp"
#include "trainer/diffusion/schedule.hpp"

namespace perrin::trainer {

/// Noise levels of some images of a global batch.
struct LevelDraw {
  std::vector<NoiseLevel> levels;
  std::vector<double> weights;  ///< of their losses, so that the mean stays that of uniform levels; 1 unless importance
  std::vector<double> quantiles;  ///< where each level stands in the range that training draws from, in [0, 1)
};

/// At which noise levels training looks: a function of (seed, position) and, for importance, of the losses so far, so
/// the same on any number of ranks.
///   discrete  t uniform; stratified: image i of G has t = floor(T (i + u) / G); importance: P(t) as LossHistory says
///   edm       ln(sigma) ~ N(p_mean, p_std^2) by its quantile u, or (i + u) / G (Karras et al. 2022, table 1)
class LevelSampler {
 public:
  LevelSampler(const Config& config, NoiseSchedule schedule);

  /// @param positions  of the images in the endless stream
  /// @param first      position of the first image of their global batch
  /// @param history    read by importance alone
  LevelDraw draw(std::span<const std::uint64_t> positions, std::uint64_t first, const LossHistory& history) const;

  /// Image i of n evaluated ones: level of the quantile (i + 1/2) / n; discrete floor((i + 1/2) T / n).
  NoiseLevel evenly(std::int64_t i, std::int64_t n) const;

 private:
  NoiseLevel edm_level(double quantile) const;

  std::uint64_t seed_;
  std::int64_t global_batch_;
  PredictionType prediction_;
  TimestepSampling sampling_;
  EdmConfig edm_;
  NoiseSchedule schedule_;
};

}  // namespace perrin::trainer
