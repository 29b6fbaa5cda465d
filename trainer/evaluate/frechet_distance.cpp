#include "trainer/evaluate/frechet_distance.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "trainer/evaluate/keyed_subset.hpp"

namespace perrin::trainer {
namespace {

void require_fit(const GaussianFit& fit, std::int64_t dimension) {
  const bool fits = fit.mu.dim() == 1 && fit.sigma.dim() == 2 && fit.mu.size(0) == dimension &&
                    fit.sigma.size(0) == dimension && fit.sigma.size(1) == dimension &&
                    fit.mu.scalar_type() == at::kDouble && fit.sigma.scalar_type() == at::kDouble;
  if (!fits) throw std::invalid_argument("mean and covariance are float64, [D] and [D, D], of one dimension");
  if (!at::isfinite(fit.mu).all().item<bool>() || !at::isfinite(fit.sigma).all().item<bool>())
    throw std::invalid_argument("a feature is not finite");
}

at::Tensor symmetric_root(const at::Tensor& matrix) {
  const auto [values, vectors] = at::linalg_eigh(matrix);
  return (vectors * values.clamp_min(0).sqrt()).mm(vectors.t());
}

/// Intercept of the least-squares line.
double intercept_of(const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<double>(x.size());
  double mean_x = 0, mean_y = 0, covariance = 0, variance = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    mean_x += x[i] / n;
    mean_y += y[i] / n;
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    covariance += (x[i] - mean_x) * (y[i] - mean_y);
    variance += (x[i] - mean_x) * (x[i] - mean_x);
  }
  return mean_y - covariance / variance * mean_x;
}

}  // namespace

double frechet_distance(const GaussianFit& a, const GaussianFit& b) { return FrechetReference(a).distance_to(b); }

FrechetReference::FrechetReference(GaussianFit reference) : reference_(std::move(reference)) {
  require_fit(reference_, reference_.mu.numel());
  root_ = symmetric_root(reference_.sigma);
}

double FrechetReference::distance_to(const GaussianFit& sample) const {
  require_fit(sample, dimension());
  at::Tensor product = root_.mm(sample.sigma).mm(root_);
  product = (product + product.t()) / 2;
  const double root_trace = at::linalg_eigvalsh(product).clamp_min(0).sqrt().sum().item<double>();
  const at::Tensor difference = reference_.mu - sample.mu;
  return difference.dot(difference).item<double>() + reference_.sigma.trace().item<double>() +
         sample.sigma.trace().item<double>() - 2 * root_trace;
}

std::vector<std::int64_t> extrapolation_points(std::int64_t samples, std::int64_t dimension) {
  constexpr std::int64_t kPoints = 15;
  if (samples < 4 * dimension) return {};
  const std::int64_t smallest = std::max(samples / 10, 2 * dimension);
  std::vector<std::int64_t> points;
  for (std::int64_t i = 0; i < kPoints; ++i) points.push_back(smallest + (samples - smallest) * i / (kPoints - 1));
  return points;
}

ExtrapolatedDistance extrapolated_distance(const FrechetReference& reference, const at::Tensor& features,
                                           std::span<const std::int64_t> points) {
  if (points.size() < 2) throw std::invalid_argument("a line needs two points at least");
  ExtrapolatedDistance result;
  std::vector<double> inverse;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const at::Tensor rows =
        keyed_subset(SubsetOf::extrapolation, static_cast<std::uint32_t>(i), features.size(0), points[i]);
    result.samples.push_back(points[i]);
    result.distances.push_back(reference.distance_to(fit_of(features.index_select(0, rows))));
    inverse.push_back(1 / static_cast<double>(points[i]));
  }
  result.distance = intercept_of(inverse, result.distances);
  return result;
}

}  // namespace perrin::trainer
