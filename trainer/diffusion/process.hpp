#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/diffusion/schedule.hpp"

namespace perrin::trainer {

/// A Gaussian per element.
struct Gaussian {
  at::Tensor mean;      ///< [N, C, H, W]
  at::Tensor variance;  ///< [N, 1, 1, 1]
};

/// The distributions of the forward process q and the variance of the reverse process p, on tensors of any floating
/// type: the tables are double and are cast where they are gathered. Every t is [N] int64 with values in [0, T), on the
/// device given at construction; a value outside throws std::out_of_range on the CPU (on CUDA the gather itself fails,
/// since looking would wait for the device). Sizes that differ throw std::invalid_argument.
class DiffusionProcess {
 public:
  /// @param device  where the tables live; inputs must be on the same one
  explicit DiffusionProcess(NoiseSchedule schedule, at::Device device = at::kCPU);

  const NoiseSchedule& schedule() const { return schedule_; }

  /// Mean and variance of q(x_t | x_0): sqrt(abar_t) x_0 and 1 - abar_t. Source: Ho et al. 2020, eq. 4.
  Gaussian q_mean_variance(const at::Tensor& x_0, const at::Tensor& t) const;

  /// Mean and variance of q(x_{t-1} | x_t, x_0), the target of the reverse process. Source: Ho et al. 2020, eq. 6-7.
  Gaussian q_posterior(const at::Tensor& x_0, const at::Tensor& x_t, const at::Tensor& t) const;

  /// log beta~_t, with that of t = 1 at t = 0. @return [N, 1, 1, 1], type of `like`
  at::Tensor posterior_log_variance(const at::Tensor& t, const at::Tensor& like) const;

  /// log of the variance of p(x_{t-1} | x_t): from the schedule, or fraction log beta_t + (1 - fraction) log beta~_t.
  /// Source: Nichol & Dhariwal 2021, eq. 15.
  /// @param fraction  [N, C, H, W]; learned_range only
  /// @return [N, 1, 1, 1], or like `fraction`
  at::Tensor reverse_log_variance(VarianceType type, const at::Tensor& t, const at::Tensor& like,
                                  const at::Tensor& fraction = {}) const;

 private:
  at::Tensor gather(const at::Tensor& table, const at::Tensor& t, const at::Tensor& like) const;

  NoiseSchedule schedule_;
  at::Tensor sqrt_alphas_cumprod_;  // [T] double, as all below
  at::Tensor sqrt_one_minus_alphas_cumprod_;
  at::Tensor posterior_mean_coef_x0_;
  at::Tensor posterior_mean_coef_xt_;
  at::Tensor posterior_variance_;
  at::Tensor log_betas_;
  at::Tensor posterior_log_variance_;
  at::Tensor fixed_large_log_variance_;
};

}  // namespace perrin::trainer
