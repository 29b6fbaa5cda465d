#include "trainer/diffusion/bound.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>
#include <stdexcept>

namespace perrin::trainer {
namespace {

constexpr double kHalfBin = 1.0 / 255;  // 256 levels over [-1, 1]
constexpr double kOuterLevel = 0.999;   // beyond it lie the levels -1 and 1 alone
constexpr double kLeastProbability = 1e-12;

/// The distribution function of a normal, in a form that keeps all its digits where it is small: tanh as a logistic
/// function, erf by its complement.
at::Tensor distribution_function(const at::Tensor& z, NormalCdf cdf) {
  if (cdf == NormalCdf::erf) return 0.5 * (z / -std::numbers::sqrt2).erfc();
  const double scale = std::sqrt(2 / std::numbers::pi);
  return (2 * scale * (z + 0.044715 * z * z * z)).sigmoid();
}

at::Tensor mean_of_image(const at::Tensor& values) { return values.flatten(1).mean(1); }

at::Tensor bits_per_dimension(const at::Tensor& nats) { return mean_of_image(nats) / std::numbers::ln2; }

}  // namespace

at::Tensor normal_kl(const at::Tensor& mean1, const at::Tensor& log_variance1, const at::Tensor& mean2,
                     const at::Tensor& log_variance2) {
  return 0.5 * (log_variance2 - log_variance1 - 1 + (log_variance1 - log_variance2).exp() +
                (mean1 - mean2).square() * (-log_variance2).exp());
}

at::Tensor discretized_gaussian_log_likelihood(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& log_scale,
                                               NormalCdf cdf) {
  const at::Tensor centred = x - mean, precision = (-log_scale).exp();
  const auto below = [&](const at::Tensor& distance) { return distribution_function(distance * precision, cdf); };
  // Inside, a bin above the mean is as likely as its mirror image below, where the difference of two small numbers is
  // exact: 5 deviations above, float would see 1 - 1 = 0 and take 1e-12 for 6e-7.
  const at::Tensor distance = -centred.abs();
  const at::Tensor inside = below(distance + kHalfBin) - below(distance - kHalfBin);
  const at::Tensor probability = at::where(x < -kOuterLevel, below(kHalfBin + centred),
                                           at::where(x > kOuterLevel, below(kHalfBin - centred), inside));
  return probability.clamp_min(kLeastProbability).log();
}

BoundTerms bound_terms(const DiffusionProcess& process, VarianceType variance, const Prediction& prediction,
                       const at::Tensor& x_0, const at::Tensor& x_t, const at::Tensor& eps, const at::Tensor& t,
                       NormalCdf cdf) {
  if (prediction.x0.sizes() != x_0.sizes() || prediction.eps.sizes() != eps.sizes() || eps.sizes() != x_0.sizes()) {
    throw std::invalid_argument(
        "bound_terms: prediction and truth differ in shape: x0 " +
        c10::str(prediction.x0.sizes(), " and ", x_0.sizes(), ", eps ", prediction.eps.sizes(), " and ", eps.sizes()));
  }
  const at::Tensor log_variance = process.reverse_log_variance(variance, t, x_0, prediction.variance_fraction);
  const at::Tensor kl = normal_kl(process.q_posterior(x_0, x_t, t).mean, process.posterior_log_variance(t, x_0),
                                  process.q_posterior(prediction.x0, x_t, t).mean, log_variance);
  // At t = 0 the mean of the posterior is x_0 itself. The other images show the decoder their own x_0: a mean far off
  // would overflow there, and at::where passes 0 * inf = NaN on to the gradient of what it leaves out.
  const at::Tensor decodes = (t == 0).view({-1, 1, 1, 1});
  const at::Tensor mean = at::where(decodes, prediction.x0, x_0);
  const at::Tensor log_likelihood = discretized_gaussian_log_likelihood(x_0, mean, 0.5 * log_variance, cdf);
  return {bits_per_dimension(at::where(decodes, -log_likelihood, kl)), mean_of_image((prediction.x0 - x_0).square()),
          mean_of_image((prediction.eps - eps).square())};
}

at::Tensor prior_term(const DiffusionProcess& process, const at::Tensor& x_0) {
  const at::Tensor last = at::full({x_0.size(0)}, process.schedule().timesteps() - 1, x_0.options().dtype(at::kLong));
  // In double: of 1 - abar_T, float keeps two digits of what the bound needs.
  const Gaussian q = process.q_mean_variance(x_0.to(at::kDouble), last);
  const at::Tensor standard = at::zeros({}, q.mean.options());
  return bits_per_dimension(normal_kl(q.mean, q.variance.log(), standard, standard)).to(x_0.scalar_type());
}

}  // namespace perrin::trainer
