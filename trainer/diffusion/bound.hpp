#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/config.hpp"
#include "trainer/diffusion/parameterization.hpp"
#include "trainer/diffusion/process.hpp"

/// The variational bound on -log p(x_0), term by term, in bits for each dimension.
/// Source: Ho et al. 2020, eq. 5, 8 and 13; Nichol & Dhariwal 2021, section 2.
namespace perrin::trainer {

/// KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2))) of each element, in nats.
at::Tensor normal_kl(const at::Tensor& mean1, const at::Tensor& log_variance1, const at::Tensor& mean2,
                     const at::Tensor& log_variance2);

/// How the decoder computes the distribution function of a normal.
enum class NormalCdf {
  tanh,  ///< 1/2 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))), as the published figures were made; off by 1.8e-4 at most
  erf    ///< exactly
};

/// log of the probability that N(mean, exp(log_scale)^2) gives to the pixel x, one of 256 bins of [-1, 1] whose outer
/// two reach to infinity; in nats, each element not below log(1e-12). Source: Ho et al. 2020, eq. 13.
/// @param x  values k / 127.5 - 1
at::Tensor discretized_gaussian_log_likelihood(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& log_scale,
                                               NormalCdf cdf = NormalCdf::tanh);

/// What one timestep says about each image.
struct BoundTerms {
  at::Tensor vb;       ///< [N] bits/dim: L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), L_0 at t = 0
  at::Tensor x0_mse;   ///< [N] mean of (x0_hat - x_0)^2
  at::Tensor eps_mse;  ///< [N] mean of (eps_hat - eps)^2
};

/// Differentiable in the prediction, of any floating type, and finite where abar_T = 0. It holds for any mean and
/// variance of p: who trains the variance alone detaches the mean.
/// @param prediction  the mean of p is that of q(x_{t-1} | x_t, x0_hat); its variance is `variance`'s
/// @param x_0, x_t, eps  [N, C, H, W], x_t = alpha x_0 + sigma eps
/// @param t  [N] int64; any mixture of timesteps
/// @throws std::invalid_argument when shapes differ or learned_range comes without a fraction
BoundTerms bound_terms(const DiffusionProcess& process, VarianceType variance, const Prediction& prediction,
                       const at::Tensor& x_0, const at::Tensor& x_t, const at::Tensor& eps, const at::Tensor& t,
                       NormalCdf cdf = NormalCdf::tanh);

/// L_T = KL(q(x_T | x_0) || N(0, 1)) of each image, [N] bits/dim; needs no network.
at::Tensor prior_term(const DiffusionProcess& process, const at::Tensor& x_0);

}  // namespace perrin::trainer
