#include "trainer/diffusion/process.hpp"

#include <ATen/ATen.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "trainer/diffusion/same_shape.hpp"

namespace perrin::trainer {
namespace {

at::Tensor table_on(const std::vector<double>& values, at::Device device) {
  return at::tensor(values, at::TensorOptions().dtype(at::kDouble)).to(device);
}

}  // namespace

DiffusionProcess::DiffusionProcess(NoiseSchedule schedule, at::Device device) : schedule_(std::move(schedule)) {
  const at::Tensor alphas_cumprod = table_on(schedule_.alphas_cumprod(), device);
  sqrt_alphas_cumprod_ = alphas_cumprod.sqrt();
  sqrt_one_minus_alphas_cumprod_ = (1 - alphas_cumprod).sqrt();
  posterior_mean_coef_x0_ = table_on(schedule_.posterior_mean_coef_x0(), device);
  posterior_mean_coef_xt_ = table_on(schedule_.posterior_mean_coef_xt(), device);
  posterior_variance_ = table_on(schedule_.posterior_variance(), device);
  log_betas_ = table_on(schedule_.betas(), device).log();
  std::vector<double> small, large;
  for (std::int64_t t = 0; t < schedule_.timesteps(); ++t) {
    small.push_back(schedule_.reverse_log_variance(t, VarianceType::fixed_small));
    large.push_back(schedule_.reverse_log_variance(t, VarianceType::fixed_large));
  }
  posterior_log_variance_ = table_on(small, device);
  fixed_large_log_variance_ = table_on(large, device);
}

at::Tensor DiffusionProcess::gather(const at::Tensor& table, const at::Tensor& t, const at::Tensor& like) const {
  if (t.dim() != 1 || t.size(0) != like.size(0)) {
    throw std::invalid_argument("t has shape " + c10::str(t.sizes()) + " for a batch of " +
                                std::to_string(like.size(0)));
  }
  if (t.is_cpu() && t.numel() > 0) {
    const auto lowest = t.min().item<std::int64_t>();
    const auto highest = t.max().item<std::int64_t>();
    if (lowest < 0 || highest >= schedule_.timesteps()) {
      throw std::out_of_range("t = " + std::to_string(lowest < 0 ? lowest : highest) + " is not in [0, " +
                              std::to_string(schedule_.timesteps()) + ")");
    }
  }
  std::vector<std::int64_t> shape(static_cast<std::size_t>(like.dim()), 1);
  shape[0] = t.size(0);
  return table.index_select(0, t).to(like.scalar_type()).view(shape);
}

Gaussian DiffusionProcess::q_mean_variance(const at::Tensor& x_0, const at::Tensor& t) const {
  return {gather(sqrt_alphas_cumprod_, t, x_0) * x_0, gather(sqrt_one_minus_alphas_cumprod_.square(), t, x_0)};
}

Gaussian DiffusionProcess::q_posterior(const at::Tensor& x_0, const at::Tensor& x_t, const at::Tensor& t) const {
  require_same_shape(x_0, x_t);
  return {gather(posterior_mean_coef_x0_, t, x_t) * x_0 + gather(posterior_mean_coef_xt_, t, x_t) * x_t,
          gather(posterior_variance_, t, x_t)};
}

at::Tensor DiffusionProcess::posterior_log_variance(const at::Tensor& t, const at::Tensor& like) const {
  return gather(posterior_log_variance_, t, like);
}

at::Tensor DiffusionProcess::reverse_log_variance(VarianceType type, const at::Tensor& t, const at::Tensor& like,
                                                  const at::Tensor& fraction) const {
  if (type == VarianceType::fixed_small) return gather(posterior_log_variance_, t, like);
  if (type == VarianceType::fixed_large) return gather(fixed_large_log_variance_, t, like);
  if (!fraction.defined()) throw std::invalid_argument("a learned variance needs the network's variance channels");
  return fraction * gather(log_betas_, t, like) + (1 - fraction) * gather(posterior_log_variance_, t, like);
}

}  // namespace perrin::trainer
