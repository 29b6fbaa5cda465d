#include "trainer/diffusion/samplers.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>

namespace perrin::trainer {
namespace {

constexpr NoiseLevel kClean{.alpha = 1, .sigma = 0};

double log_snr_half(const NoiseLevel& level) { return std::log(level.alpha / level.sigma); }  // lambda of Lu et al.

std::vector<NoiseLevel> levels_of(const NoiseSchedule& schedule, const std::vector<std::int64_t>& timesteps) {
  std::vector<NoiseLevel> levels;
  for (const std::int64_t t : timesteps) levels.push_back(schedule.level(t));
  return levels;
}

at::Tensor sample_ancestral(const Denoiser& denoiser, const NoiseSchedule& schedule, const SampleConfig& config,
                            VarianceType variance, at::Tensor x, const StepNoise& noise) {
  std::vector<std::int64_t> timesteps = spaced_timesteps(schedule, config.steps, resolved_spacing(config));
  std::reverse(timesteps.begin(), timesteps.end());
  const NoiseSchedule visited = respaced(schedule, timesteps);
  for (std::int64_t i = visited.timesteps() - 1; i >= 0; --i) {
    const std::int64_t t = timesteps[static_cast<std::size_t>(i)];
    x = ancestral_step(visited, x, denoiser(x, schedule.level(t)), i, variance, i > 0 ? noise(t) : at::Tensor());
  }
  return x;
}

at::Tensor sample_ddim(const Denoiser& denoiser, const NoiseSchedule& schedule, const SampleConfig& config,
                       at::Tensor x, const StepNoise& noise) {
  const auto levels = levels_of(schedule, spaced_timesteps(schedule, config.steps, resolved_spacing(config)));
  for (std::size_t i = 0; i < levels.size(); ++i) {
    const bool last = i + 1 == levels.size();
    const at::Tensor z = config.eta > 0 && !last ? noise(levels[i].t) : at::Tensor();
    x = ddim_step(denoiser(x, levels[i]), levels[i], last ? kClean : levels[i + 1], config.eta, z);
  }
  return x;
}

at::Tensor sample_dpm_solver(const Denoiser& denoiser, const NoiseSchedule& schedule, const SampleConfig& config,
                             at::Tensor x) {
  const auto levels = levels_of(schedule, spaced_timesteps(schedule, config.steps, resolved_spacing(config)));
  at::Tensor previous_x0;
  for (std::size_t i = 0; i < levels.size(); ++i) {
    const at::Tensor x0 = denoiser(x, levels[i]).x0;
    x = dpm_solver_step(x, x0, levels[i], i + 1 == levels.size() ? kClean : levels[i + 1], previous_x0,
                        levels[i == 0 ? 0 : i - 1]);
    previous_x0 = x0;
  }
  return x;
}

at::Tensor sample_heun(const Denoiser& denoiser, const SampleConfig& config, std::int64_t timesteps,
                       const at::Tensor& normals, const StepNoise& noise) {
  const std::int64_t steps = config.steps == 0 ? timesteps : config.steps;
  const std::vector<double> sigmas = heun_sigmas(steps, config.sigma_min, config.sigma_max, config.rho);
  // The state spans sigma_max to sigma_min: double, as the paper's figures were made; the network keeps its own type.
  const Denoiser in_double = [&](const at::Tensor& x, const NoiseLevel& level) {
    Prediction prediction = denoiser(x.to(normals.scalar_type()), level);
    prediction.x0 = prediction.x0.to(at::kDouble);
    return prediction;
  };
  const double most_churn = std::numbers::sqrt2 - 1;
  at::Tensor x = normals.to(at::kDouble) * sigmas.front();
  for (std::int64_t i = 0; i < steps; ++i) {
    double sigma = sigmas[static_cast<std::size_t>(i)];
    const bool churns =
        config.churn > 0 && sigma >= config.churn_min && (config.churn_max == 0 || sigma <= config.churn_max);
    if (churns) {
      const double raised = sigma * (1 + std::min(config.churn / static_cast<double>(steps), most_churn));
      x = x + std::sqrt(raised * raised - sigma * sigma) * config.churn_noise * noise(i).to(at::kDouble);
      sigma = raised;
    }
    x = heun_step(in_double, x, sigma, sigmas[static_cast<std::size_t>(i) + 1]);
  }
  return x.to(normals.scalar_type());
}

/// Nearest timesteps to `steps` evenly spaced log SNRs; pure noise, where there is no log SNR, is visited first.
std::vector<std::int64_t> log_snr_timesteps(const NoiseSchedule& schedule, std::int64_t steps) {
  std::vector<std::int64_t> visited;
  std::int64_t highest = schedule.timesteps() - 1;
  if (schedule.alphas_cumprod().back() == 0) {
    visited.push_back(highest--);
    --steps;
  }
  std::vector<double> lambdas;
  for (std::int64_t t = 0; t <= highest; ++t) lambdas.push_back(log_snr_half(schedule.level(t)));
  for (std::int64_t i = 0; i < steps; ++i) {
    const double share = steps == 1 ? 0 : static_cast<double>(i) / static_cast<double>(steps - 1);
    const double lambda = lambdas.back() + share * (lambdas.front() - lambdas.back());
    const auto distance = [&](double other) { return std::abs(other - lambda); };
    visited.push_back(std::min_element(lambdas.begin(), lambdas.end(),
                                       [&](double a, double b) { return distance(a) < distance(b); }) -
                      lambdas.begin());
  }
  return visited;
}

}  // namespace

at::Tensor ancestral_step(const NoiseSchedule& schedule, const at::Tensor& x_t, const Prediction& prediction,
                          std::int64_t t, VarianceType variance, const at::Tensor& z) {
  const auto index = static_cast<std::size_t>(t);
  const at::Tensor mean =
      schedule.posterior_mean_coef_x0().at(index) * prediction.x0 + schedule.posterior_mean_coef_xt().at(index) * x_t;
  if (t == 0) return mean;
  if (variance != VarianceType::learned_range)
    return mean + std::exp(schedule.reverse_log_variance(t, variance) / 2) * z;
  const double least = schedule.posterior_log_variance(t), most = std::log(schedule.betas()[index]);
  return mean + at::exp((least + (most - least) * prediction.variance_fraction) / 2) * z;
}

at::Tensor ddim_step(const Prediction& prediction, const NoiseLevel& from, const NoiseLevel& to, double eta,
                     const at::Tensor& z) {
  const double abar = from.alpha * from.alpha, abar_to = to.alpha * to.alpha;
  const double deviation = eta * (to.sigma / from.sigma) * std::sqrt(1 - abar / abar_to);
  const double direction = std::sqrt(std::max(0.0, to.sigma * to.sigma - deviation * deviation));
  const at::Tensor x_to = to.alpha * prediction.x0 + direction * prediction.eps;
  return deviation > 0 ? x_to + deviation * z : x_to;
}

at::Tensor dpm_solver_step(const at::Tensor& x, const at::Tensor& x0, const NoiseLevel& from, const NoiseLevel& to,
                           const at::Tensor& previous_x0, const NoiseLevel& previous) {
  if (to.sigma == 0) return x0;  // the limit of what follows
  const double h = log_snr_half(to) - log_snr_half(from);
  at::Tensor D = x0;
  if (previous_x0.defined()) {
    const double r = (log_snr_half(from) - log_snr_half(previous)) / h;  // infinite after pure noise: first order
    D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * previous_x0;
  }
  return to.sigma / from.sigma * x - to.alpha * std::expm1(-h) * D;
}

at::Tensor heun_step(const Denoiser& denoiser, const at::Tensor& x, double sigma, double next_sigma) {
  const auto slope = [&](const at::Tensor& at, double level) {
    return (at - denoiser(at, {.alpha = 1, .sigma = level}).x0) / level;
  };
  const at::Tensor first = slope(x, sigma);
  const at::Tensor euler = x + (next_sigma - sigma) * first;
  if (next_sigma == 0) return euler;
  return x + (next_sigma - sigma) * (first + slope(euler, next_sigma)) / 2;
}

std::vector<std::int64_t> spaced_timesteps(const NoiseSchedule& schedule, std::int64_t steps, Spacing spacing) {
  const std::int64_t T = schedule.timesteps();
  if (steps == 0) steps = T;
  if (steps < 0 || steps > T) {
    throw std::invalid_argument(std::to_string(steps) + " steps of a process of diffusion.timesteps = " +
                                std::to_string(T) + "; choose 0 (all) to as many");
  }
  const auto share = [&](std::int64_t i) {
    return steps == 1 ? 1.0 : static_cast<double>(i) / static_cast<double>(steps - 1);
  };
  std::function<std::int64_t(std::int64_t)> timestep;  // of the i-th step from the clean end
  switch (spacing) {
    case Spacing::leading:
      timestep = [&](std::int64_t i) { return i * (T / steps); };
      break;
    case Spacing::linspace:
      timestep = [&](std::int64_t i) { return std::llrint(share(i) * static_cast<double>(T - 1)); };
      break;
    case Spacing::trailing:
      timestep = [&](std::int64_t i) {
        const double stride = static_cast<double>(T) / static_cast<double>(steps);
        return std::llrint(static_cast<double>(T) - static_cast<double>(steps - 1 - i) * stride) - 1;
      };
      break;
    case Spacing::quad:
      timestep = [&](std::int64_t i) {
        // In this order of operations, which decides where a square is cut to an integer.
        const double end = std::sqrt(static_cast<double>(T) * 0.8);
        const double root = steps == 1 ? end : static_cast<double>(i) * (end / static_cast<double>(steps - 1));
        return std::min(static_cast<std::int64_t>(root * root), T - 1);
      };
      break;
    case Spacing::log_snr:
      break;
    case Spacing::automatic:
      throw std::invalid_argument("the spacing of the timesteps must be resolved first");
  }
  std::vector<std::int64_t> visited;
  if (spacing == Spacing::log_snr)
    visited = log_snr_timesteps(schedule, steps);
  else
    for (std::int64_t i = steps - 1; i >= 0; --i) visited.push_back(timestep(i));
  visited.erase(std::unique(visited.begin(), visited.end()), visited.end());
  return visited;
}

std::vector<double> heun_sigmas(std::int64_t steps, double sigma_min, double sigma_max, double rho) {
  std::vector<double> sigmas;
  const double low = std::pow(sigma_min, 1 / rho), high = std::pow(sigma_max, 1 / rho);
  for (std::int64_t i = 0; i < steps; ++i) {
    const double share = steps == 1 ? 0 : static_cast<double>(i) / static_cast<double>(steps - 1);
    sigmas.push_back(std::pow(high + share * (low - high), rho));
  }
  sigmas.push_back(0);
  return sigmas;
}

Spacing resolved_spacing(const SampleConfig& config) {
  if (config.spacing != Spacing::automatic) return config.spacing;
  return config.sampler == Sampler::dpm_solver ? Spacing::log_snr : Spacing::linspace;
}

at::Tensor sample_from(const Denoiser& denoiser, const NoiseSchedule& schedule, const SampleConfig& config,
                       VarianceType variance, const at::Tensor& normals, const StepNoise& noise) {
  switch (config.sampler) {
    case Sampler::ancestral:
      return sample_ancestral(denoiser, schedule, config, variance, normals, noise);
    case Sampler::ddim:
      return sample_ddim(denoiser, schedule, config, normals, noise);
    case Sampler::dpm_solver:
      return sample_dpm_solver(denoiser, schedule, config, normals);
    case Sampler::heun:
      break;
  }
  return sample_heun(denoiser, config, schedule.timesteps(), normals, noise);
}

}  // namespace perrin::trainer
