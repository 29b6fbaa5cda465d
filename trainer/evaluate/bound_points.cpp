#include "trainer/evaluate/bound_points.hpp"

#include <stdexcept>

namespace perrin::trainer {

std::vector<BoundPoint> bound_points(std::int64_t images, std::int64_t timesteps) {
  if (images < 1 || timesteps < 1)
    throw std::invalid_argument("the bound is estimated from an image and a timestep at least");
  double harmonic = 0;
  for (std::int64_t t = 0; t < timesteps; ++t) harmonic += 1 / static_cast<double>(t + 1);
  const auto n = static_cast<double>(images);
  std::vector<BoundPoint> points;
  double cumulative = 0;
  std::int64_t taken = 0;
  for (std::int64_t t = 0; t < timesteps; ++t) {
    const double expected = n / harmonic / static_cast<double>(t + 1);
    cumulative += expected;
    // Image i stands at the middle of its part of the distribution, i + 1/2; the last timestep takes what rounding
    // left.
    std::int64_t here = 0;
    while (taken + here < images && (static_cast<double>(taken + here) + 0.5 < cumulative || t + 1 == timesteps))
      ++here;
    const double weight = expected >= 1 ? 1 / static_cast<double>(here) : 1 / expected;
    points.insert(points.end(), static_cast<std::size_t>(here), {t, weight});
    taken += here;
  }
  return points;
}

}  // namespace perrin::trainer
