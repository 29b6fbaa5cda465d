#pragma once

#include <cstdint>
#include <vector>

#include "trainer/config.hpp"

namespace perrin::trainer {

/// One level of noise: x = alpha x_0 + sigma eps. The discrete process has alpha = sqrt(abar_t) and sigma =
/// sqrt(1 - abar_t); that of Karras et al. 2022 has alpha = 1.
struct NoiseLevel {
  double alpha = 1;
  double sigma = 0;
  std::int64_t t = -1;  ///< 0-based timestep that a discrete network is told; -1: the one nearest in sigma / alpha
};

/// beta_t of every timestep, before any rescaling.
///   linear     evenly spaced from beta_start to beta_end (Ho et al. 2020)
///   quadratic  sqrt(beta_t) evenly spaced (Song et al. 2021's code; "scaled_linear" in diffusers)
///   cosine     abar(u) = cos^2((u + 0.008) / 1.008 * pi / 2), betas at most 0.999 (Nichol & Dhariwal 2021, eq. 17)
///   sigmoid    beta_start + (beta_end - beta_start) * sigmoid(z), z evenly spaced from -6 to 6 (diffusers)
///   listed     config.betas
/// @throws std::invalid_argument when timesteps < 1 or the list has another length
std::vector<double> make_betas(const DiffusionConfig& config);

/// Betas whose abar_T is exactly 0: sqrt(abar) shifted and scaled so that its first value stays.
/// Source: Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", algorithm 1.
std::vector<double> rescale_zero_terminal_snr(const std::vector<double>& betas);

/// The tables of the forward process in double precision. Index t is 0-based: t = 0 is the step from clean data.
/// Names as in Ho et al. 2020 and the code that follows it: alpha_t = 1 - beta_t, alphas_cumprod (abar) is their
/// running product.
class NoiseSchedule {
 public:
  /// make_betas, rescaled where config.zero_terminal_snr says so.
  /// @throws std::invalid_argument as below
  explicit NoiseSchedule(const DiffusionConfig& config);
  /// @param betas  each in (0, 1); the last may be 1
  /// @throws std::invalid_argument for others, or when abar falls below 1e-30 before a last beta of 1
  explicit NoiseSchedule(std::vector<double> betas);

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

  /// log beta~_t; at t = 0, where beta~ is 0, that of t = 1 (of beta_0 where T = 1), as the authors' code has it.
  double posterior_log_variance(std::int64_t t) const;
  /// log of the variance of p(x_{t-1} | x_t): fixed_small log beta~_t; fixed_large log beta_t, and log beta~_1 at t = 0
  /// for the decoder (Ho et al. 2020's code). @throws std::invalid_argument for learned_range
  double reverse_log_variance(std::int64_t t, VarianceType type) const;

  NoiseLevel level(std::int64_t t) const;
  /// abar_t / (1 - abar_t).
  double snr(std::int64_t t) const;
  /// The timestep whose sigma / alpha is nearest.
  std::int64_t nearest_timestep(double sigma_over_alpha) const;

 private:
  std::vector<double> betas_;
  std::vector<double> alphas_cumprod_;
  std::vector<double> alphas_cumprod_prev_;
  std::vector<double> posterior_variance_;
  std::vector<double> posterior_mean_coef_x0_;
  std::vector<double> posterior_mean_coef_xt_;
};

/// The schedule of a process that visits only some timesteps: abar at those is kept, so betas are
/// 1 - abar_{t_i} / abar_{t_{i-1}}. Source: Nichol & Dhariwal 2021, section 4.
/// @param timesteps  ascending, within the schedule
NoiseSchedule respaced(const NoiseSchedule& schedule, const std::vector<std::int64_t>& timesteps);

}  // namespace perrin::trainer
