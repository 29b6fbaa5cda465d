#pragma once

#include <cstdint>
#include <vector>

namespace perrin::trainer {

/// The timestep at which one image estimates the variational bound, and what its term counts for in the sum over t.
struct BoundPoint {
  std::int64_t t = 0;
  double weight = 1;
};

/// Points for `images` images whose weighted terms add up to an estimate of the sum over all timesteps. Terms fall
/// about as 1 / t, so timesteps are taken by quantiles of P(t) proportional to 1 / (t + 1): where P gives a timestep an
/// image or more its images share weight 1, elsewhere an image stands for 1 / (n P(t)) timesteps.
/// @throws std::invalid_argument if either number is below 1
std::vector<BoundPoint> bound_points(std::int64_t images, std::int64_t timesteps);

}  // namespace perrin::trainer
