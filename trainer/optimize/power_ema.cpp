#include "trainer/optimize/power_ema.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace perrin::trainer {
namespace {

/// Added to the squared unit norms: keeps equal profiles (two snapshots between which every step was skipped) apart.
constexpr double kRidge = 1e-12;

/// A symmetric positive definite matrix [n, n] as its Cholesky factor L, by rows.
class Cholesky {
 public:
  explicit Cholesky(std::vector<double> matrix, std::size_t n) : l_(std::move(matrix)), n_(n) {
    for (std::size_t i = 0; i < n_; ++i)
      for (std::size_t j = 0; j <= i; ++j) {
        const double rest = l_[i * n_ + j] - std::inner_product(&l_[i * n_], &l_[i * n_ + j], &l_[j * n_], 0.0);
        l_[i * n_ + j] = i == j ? std::sqrt(rest) : rest / l_[j * n_ + j];
      }
  }

  /// The x of L L^T x = b.
  std::vector<double> solve(std::vector<double> b) const {
    for (std::size_t i = 0; i < n_; ++i)
      b[i] = (b[i] - std::inner_product(&l_[i * n_], &l_[i * n_ + i], b.data(), 0.0)) / l_[i * n_ + i];
    for (std::size_t i = n_; i-- > 0;) {
      for (std::size_t j = i + 1; j < n_; ++j) b[i] -= l_[j * n_ + i] * b[j];
      b[i] /= l_[i * n_ + i];
    }
    return b;
  }

 private:
  std::vector<double> l_;
  std::size_t n_;
};

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

void require_reachable(std::span<const PowerProfile> stored, const PowerProfile& target) {
  std::int64_t last = 0;
  for (const PowerProfile& profile : stored) {
    if (profile.updates < 1) throw std::invalid_argument("an average of no updates has no profile");
    last = std::max(last, profile.updates);
  }
  if (target.updates < 1 || last < target.updates)
    throw std::invalid_argument(fmt::format("no stored average reaches update {}: the last of {} was made at update {}",
                                            target.updates, stored.size(), last));
}

}  // namespace

double power_ema_gamma(double sigma_rel) {
  if (!(sigma_rel > 0 && sigma_rel < kWidestPowerEma))
    throw std::invalid_argument(
        fmt::format("the relative width of a power-function average lies between 0 and {:.4f}, not at {}",
                    kWidestPowerEma, sigma_rel));
  // The width falls with gamma, and is below 1 / (gamma + 2): bisection down to neighbouring numbers.
  double low = 0, high = std::min(1 / sigma_rel, std::numeric_limits<double>::max() / 4);
  for (double middle = (low + high) / 2; middle > low && middle < high; middle = (low + high) / 2) {
    const double width = std::sqrt((middle + 1) / (middle + 3)) / (middle + 2);
    (width > sigma_rel ? low : high) = middle;
  }
  return low;
}

double power_ema_weight(double gamma, std::int64_t t) {
  return -std::expm1((gamma + 1) * std::log1p(-1.0 / static_cast<double>(t)));
}

double norm(const PowerProfile& profile) {
  return (profile.gamma + 1) / std::sqrt((2 * profile.gamma + 1) * static_cast<double>(profile.updates));
}

double cosine(const PowerProfile& a, const PowerProfile& b) {
  const PowerProfile& first = a.updates < b.updates ? a : b;
  const PowerProfile& last = a.updates < b.updates ? b : a;
  const double ratio = static_cast<double>(first.updates) / static_cast<double>(last.updates);
  return std::sqrt(2 * a.gamma + 1) * std::sqrt(2 * b.gamma + 1) / (a.gamma + b.gamma + 1) *
         std::pow(ratio, last.gamma + 0.5);
}

ProfileFit fit_profile(std::span<const PowerProfile> stored, const PowerProfile& target) {
  require_reachable(stored, target);
  // In units of the norms: gram [n, n] and projections [n] of unit profiles, y_i = x_i |p_i| / |target|.
  const std::size_t n = stored.size();
  std::vector<double> gram(n * n), projections(n), scales(n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) gram[i * n + j] = cosine(stored[i], stored[j]) + (i == j ? kRidge : 0);
    projections[i] = cosine(stored[i], target);
    scales[i] = norm(target) / norm(stored[i]);
  }
  // Lagrange: gram y = projections + lambda * scales, with lambda such that the sum of x_i = scales_i y_i is 1.
  const Cholesky factor(gram, n);
  std::vector<double> y = factor.solve(projections);
  const std::vector<double> direction = factor.solve(scales);
  const double lambda = (1 - dot(scales, y)) / dot(scales, direction);
  for (std::size_t i = 0; i < n; ++i) y[i] += lambda * direction[i];

  double squared = 1 - 2 * dot(y, projections);
  for (std::size_t i = 0; i < n; ++i) squared += y[i] * std::inner_product(y.begin(), y.end(), &gram[i * n], 0.0);
  ProfileFit fit{.weights = std::move(y), .residual = std::sqrt(std::max(squared, 0.0))};
  for (std::size_t i = 0; i < n; ++i) fit.weights[i] *= scales[i];
  return fit;
}

}  // namespace perrin::trainer
