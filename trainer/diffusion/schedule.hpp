#pragma once

#include <cstdint>
#include <vector>

#include "trainer/config.hpp"

namespace perrin::trainer {

/// The tables of the forward process in double precision. Index t is 0-based: t = 0 is the step from clean data.
/// Names as in Ho et al. 2020 and the code that follows it: alpha_t = 1 - beta_t, alphas_cumprod (abar) is their
/// running product.
class NoiseSchedule {
 public:
  /// linear: betas evenly spaced from beta_start to beta_end (Ho et al. 2020).
  /// cosine: abar(u) = cos^2((u + 0.008) / 1.008 * pi / 2), betas at most 0.999 (Nichol & Dhariwal 2021, eq. 17).
  /// @throws std::invalid_argument when timesteps < 1, a beta is not in (0, 1), or abar falls below 1e-30
  explicit NoiseSchedule(const DiffusionConfig& config);

  std::int64_t timesteps() const { return static_cast<std::int64_t>(betas_.size()); }

  const std::vector<double>& betas() const { return betas_; }
  const std::vector<double>& alphas_cumprod() const { return alphas_cumprod_; }

  /// abar_{t-1}, with abar_{-1} = 1.
  const std::vector<double>& alphas_cumprod_prev() const { return alphas_cumprod_prev_; }

  /// beta~_t = (1 - abar_{t-1}) / (1 - abar_t) beta_t, the variance of q(x_{t-1} | x_t, x_0); 0 at t = 0 (eq. 7).
  const std::vector<double>& posterior_variance() const { return posterior_variance_; }

  /// Weights of x_0 and of x_t in the mean of q(x_{t-1} | x_t, x_0) (eq. 7).
  const std::vector<double>& posterior_mean_coef_x0() const { return posterior_mean_coef_x0_; }
  const std::vector<double>& posterior_mean_coef_xt() const { return posterior_mean_coef_xt_; }

  /// Variance of p(x_{t-1} | x_t) for t > 0: beta~_t (fixed_small) or beta_t (fixed_large); nothing is added at t = 0,
  /// so it is 0 there.
  double reverse_variance(std::int64_t t, VarianceType type) const;

 private:
  std::vector<double> betas_;
  std::vector<double> alphas_cumprod_;
  std::vector<double> alphas_cumprod_prev_;
  std::vector<double> posterior_variance_;
  std::vector<double> posterior_mean_coef_x0_;
  std::vector<double> posterior_mean_coef_xt_;
};

}  // namespace perrin::trainer
