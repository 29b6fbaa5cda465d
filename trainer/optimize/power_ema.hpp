#pragma once

#include <cstdint>
#include <span>
#include <vector>

/// Averages of the weights whose profile is a power of time, and any other of their kind made afterwards from stored
/// ones. Source: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3 and
/// appendix C.
namespace perrin::trainer {

/// Relative widths lie below this one, which is that of the plain mean (gamma = 0): 1 / sqrt(12).
inline constexpr double kWidestPowerEma = 0.28867513459481288;

/// Exponent of the profile whose standard deviation is `sigma_rel` of the training's length:
/// sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).
/// @throws std::invalid_argument unless 0 < sigma_rel < kWidestPowerEma
double power_ema_gamma(double sigma_rel);

/// What update number t = 1, 2, ... takes over of the new weights: 1 - beta_t, where beta_t = (1 - 1/t)^(gamma + 1).
/// The first update takes all of them, so that the initial weights have no part in the average.
double power_ema_weight(double gamma, std::int64_t t);

/// p(tau) proportional to tau^gamma on (0, updates], 0 elsewhere, integral 1: how much of an average made at `updates`
/// comes from the weights of each time. Update i has exactly the share of p over (i - 1, i].
struct PowerProfile {
  std::int64_t updates = 0;
  double gamma = 0;
};

/// L2 norm: (gamma + 1) / sqrt((2 gamma + 1) updates).
double norm(const PowerProfile& profile);

/// Inner product of two profiles of unit norm. With the earlier end m and the later one M, whose exponent is gamma_M:
/// sqrt((2 gamma_a + 1) (2 gamma_b + 1)) / (gamma_a + gamma_b + 1) * (m / M)^(gamma_M + 1/2).
double cosine(const PowerProfile& a, const PowerProfile& b);

/// A profile as a sum of stored ones.
struct ProfileFit {
  std::vector<double> weights;  ///< of each stored average; their sum is 1
  double residual = 0;          ///< L2 distance from the target, in units of the target's norm
};

/// The weights x that minimise |sum_i x_i p_i - target|^2 subject to sum_i x_i = 1.
/// The paper has no such condition; it keeps a parameter that never moved exactly as it is. Measured on random walks,
/// 8 times two stored averages: relative error of the sum 3e-4 instead of 2.5e-3.
/// @param stored at least one with as many updates as the target: what came later cannot be made up for
/// @throws std::invalid_argument for profiles of no updates, or if all end before the target
ProfileFit fit_profile(std::span<const PowerProfile> stored, const PowerProfile& target);

}  // namespace perrin::trainer
