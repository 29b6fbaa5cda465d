#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "trainer/evaluate/feature_statistics.hpp"

namespace perrin::trainer {

/// Squared 2-Wasserstein distance of two Gaussians, |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); of Inception
/// features, the FID. The trace of the root is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2),
/// which is symmetric: no general matrix root, no complex numbers. Eigenvalues that rounding made negative count as 0.
/// Source: Dowson and Landau 1982; Heusel et al. 2017, section 3.
/// @throws std::invalid_argument when dimensions differ or a number is not finite
double frechet_distance(const GaussianFit& a, const GaussianFit& b);

/// One reference, many distances to it: the root of its covariance is computed once.
class FrechetReference {
 public:
  /// @throws std::invalid_argument unless mu is [D] and sigma [D, D], float64 and finite
  explicit FrechetReference(GaussianFit reference);

  /// frechet_distance(reference, sample).
  double distance_to(const GaussianFit& sample) const;
  std::int64_t dimension() const { return reference_.mu.size(0); }

 private:
  GaussianFit reference_;
  at::Tensor root_;  // of sigma, symmetric
};

/// The distance as infinitely many samples would have it.
struct ExtrapolatedDistance {
  double distance = 0;                ///< the intercept
  std::vector<std::int64_t> samples;  ///< of each point of the line
  std::vector<double> distances;
};

/// Sample counts at which the line is measured: 15 evenly from n / 10 (but at least two for each dimension) to n; none
/// where n is below four for each dimension, as the bias is no line there.
std::vector<std::int64_t> extrapolation_points(std::int64_t samples, std::int64_t dimension);

/// Straight line through the distances of the first `points[i]` rows of a keyed shuffle of its own, over 1 / points[i];
/// the bias of a finite sample falls as its inverse. Least squares.
/// Source: Chong and Forsyth 2020, "Effectively unbiased FID and Inception Score", section 3 (their FID-infinity,
/// without quasi-random sampling).
/// @param features  [N, D]
/// @throws std::invalid_argument for fewer than two points or one above N
ExtrapolatedDistance extrapolated_distance(const FrechetReference& reference, const at::Tensor& features,
                                           std::span<const std::int64_t> points);

}  // namespace perrin::trainer
