#include "trainer/diffusion/samplers.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

at::Tensor clip_to_image_range(at::Tensor x_0, ClipX0 clip) { return clip == ClipX0::yes ? x_0.clamp_(-1, 1) : x_0; }

// x_0 from eps with one abar for the whole batch.
at::Tensor predicted_x0(const at::Tensor& x_t, const at::Tensor& eps, double alpha_cumprod, ClipX0 clip) {
  return clip_to_image_range((x_t - std::sqrt(1 - alpha_cumprod) * eps) / std::sqrt(alpha_cumprod), clip);
}

at::Tensor predict(const EpsilonModel& model, const at::Tensor& x_t, std::int64_t t) {
  return model(x_t, at::full({x_t.size(0)}, t, x_t.options().dtype(at::kLong)));
}

at::Tensor sample_ancestral(const EpsilonModel& model, const NoiseSchedule& schedule, VarianceType variance,
                            at::Tensor x, const StepNoise& noise, ClipX0 clip) {
  for (std::int64_t t = schedule.timesteps() - 1; t >= 0; --t) {
    const at::Tensor z = t > 0 ? noise(t) : at::Tensor();
    x = ancestral_step(schedule, x, predict(model, x, t), t, variance, z, clip);
  }
  return x;
}

at::Tensor sample_ddim(const EpsilonModel& model, const NoiseSchedule& schedule, const SampleConfig& config,
                       at::Tensor x, const StepNoise& noise, ClipX0 clip) {
  const std::vector<std::int64_t> timesteps = ddim_timesteps(schedule.timesteps(), config.steps);
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    const std::int64_t t = timesteps[i];
    const std::int64_t t_prev = i + 1 < timesteps.size() ? timesteps[i + 1] : -1;
    const at::Tensor z = config.eta > 0 && t_prev >= 0 ? noise(t) : at::Tensor();
    x = ddim_step(schedule, x, predict(model, x, t), t, t_prev, config.eta, z, clip);
  }
  return x;
}

}  // namespace

at::Tensor ancestral_step(const NoiseSchedule& schedule, const at::Tensor& x_t, const at::Tensor& eps, std::int64_t t,
                          VarianceType variance, const at::Tensor& z, ClipX0 clip) {
  const auto index = static_cast<std::size_t>(t);
  const at::Tensor x_0 = predicted_x0(x_t, eps, schedule.alphas_cumprod().at(index), clip);
  at::Tensor x_prev = schedule.posterior_mean_coef_x0()[index] * x_0 + schedule.posterior_mean_coef_xt()[index] * x_t;
  const double step_variance = schedule.reverse_variance(t, variance);
  return step_variance > 0 ? x_prev.add_(z, std::sqrt(step_variance)) : x_prev;
}

at::Tensor ddim_step(const NoiseSchedule& schedule, const at::Tensor& x_t, const at::Tensor& eps, std::int64_t t,
                     std::int64_t t_prev, double eta, const at::Tensor& z, ClipX0 clip) {
  const double abar = schedule.alphas_cumprod().at(static_cast<std::size_t>(t));
  const double abar_prev = t_prev < 0 ? 1.0 : schedule.alphas_cumprod().at(static_cast<std::size_t>(t_prev));
  const double sigma = eta * std::sqrt((1 - abar_prev) / (1 - abar)) * std::sqrt(1 - abar / abar_prev);
  const at::Tensor x_0 = predicted_x0(x_t, eps, abar, clip);
  const at::Tensor direction = clip == ClipX0::yes ? (x_t - std::sqrt(abar) * x_0) / std::sqrt(1 - abar) : eps;
  at::Tensor x_prev = std::sqrt(abar_prev) * x_0 + std::sqrt(1 - abar_prev - sigma * sigma) * direction;
  return sigma > 0 ? x_prev.add_(z, sigma) : x_prev;
}

std::vector<std::int64_t> ddim_timesteps(std::int64_t timesteps, std::int64_t steps) {
  if (steps < 1 || steps > timesteps) {
    throw std::invalid_argument("sample.steps is " + std::to_string(steps) +
                                "; DDIM takes 1 to diffusion.timesteps = " + std::to_string(timesteps));
  }
  std::vector<std::int64_t> visited;
  for (std::int64_t i = steps - 1; i >= 0; --i) {
    const double share = steps == 1 ? 1.0 : static_cast<double>(i) / static_cast<double>(steps - 1);
    visited.push_back(std::llround(share * static_cast<double>(timesteps - 1)));
  }
  return visited;
}

at::Tensor sample_from(const EpsilonModel& model, const NoiseSchedule& schedule, const SampleConfig& config,
                       VarianceType variance, at::Tensor x_T, const StepNoise& noise, ClipX0 clip) {
  if (config.sampler == Sampler::ancestral) {
    return sample_ancestral(model, schedule, variance, std::move(x_T), noise, clip);
  }
  return sample_ddim(model, schedule, config, std::move(x_T), noise, clip);
}

at::Tensor sample(const EpsilonModel& model, const DiffusionProcess& process, const SampleConfig& config,
                  VarianceType variance, std::span<const std::uint64_t> indices, const data::ImageShape& shape,
                  at::Device device) {
  const std::vector<std::int64_t> sample_shape{shape.channels, shape.height, shape.width};
  const auto draw = [&](Purpose purpose, std::int64_t t) {
    const Stream stream{.seed = config.seed, .purpose = purpose, .step = static_cast<std::uint32_t>(t)};
    return keyed_normal(stream, indices, sample_shape).to(device);
  };
  const StepNoise noise = [&](std::int64_t t) { return draw(Purpose::sampling_noise, t); };
  return sample_from(model, process.schedule(), config, variance, draw(Purpose::sampling_start, 0), noise, ClipX0::yes);
}

}  // namespace perrin::trainer
