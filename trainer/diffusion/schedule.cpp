#include "trainer/diffusion/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

namespace perrin::trainer {
namespace {

constexpr double kLeastSignal = 1e-30;  // of alphas_cumprod; x_0 is predicted by dividing by its root

std::vector<double> linear_betas(const DiffusionConfig& config) {
  std::vector<double> betas(static_cast<std::size_t>(config.timesteps), config.beta_start);
  for (std::size_t t = 1; t < betas.size(); ++t) {
    betas[t] = config.beta_start +
               (config.beta_end - config.beta_start) * static_cast<double>(t) / static_cast<double>(betas.size() - 1);
  }
  return betas;
}

std::vector<double> cosine_betas(std::int64_t timesteps) {
  constexpr double kOffset = 0.008;
  constexpr double kMaxBeta = 0.999;
  const auto alpha_bar = [](double u) {
    const double cosine = std::cos((u + kOffset) / (1 + kOffset) * std::numbers::pi / 2);
    return cosine * cosine;
  };
  std::vector<double> betas(static_cast<std::size_t>(timesteps));
  for (std::size_t t = 0; t < betas.size(); ++t) {
    const double u = static_cast<double>(t) / static_cast<double>(timesteps);
    const double next = static_cast<double>(t + 1) / static_cast<double>(timesteps);
    betas[t] = std::min(1 - alpha_bar(next) / alpha_bar(u), kMaxBeta);
  }
  return betas;
}

}  // namespace

NoiseSchedule::NoiseSchedule(const DiffusionConfig& config) {
  if (config.timesteps < 1) {
    throw std::invalid_argument("diffusion.timesteps is " + std::to_string(config.timesteps) +
                                "; at least 1 is needed");
  }
  betas_ = config.beta_schedule == BetaSchedule::linear ? linear_betas(config) : cosine_betas(config.timesteps);
  double product = 1;
  for (std::size_t t = 0; t < betas_.size(); ++t) {
    const double beta = betas_[t];
    if (!(beta > 0 && beta < 1)) {
      throw std::invalid_argument("beta at t = " + std::to_string(t) + " is " + std::to_string(beta) +
                                  ", not in (0, 1); check diffusion.beta_start and diffusion.beta_end");
    }
    const double previous = product;
    product *= 1 - beta;
    alphas_cumprod_.push_back(product);
    alphas_cumprod_prev_.push_back(previous);
    posterior_variance_.push_back(beta * (1 - previous) / (1 - product));
    posterior_mean_coef_x0_.push_back(beta * std::sqrt(previous) / (1 - product));
    posterior_mean_coef_xt_.push_back((1 - previous) * std::sqrt(1 - beta) / (1 - product));
  }
  if (product < kLeastSignal) {
    throw std::invalid_argument("alphas_cumprod falls to " + std::to_string(product) +
                                " at the last timestep, too little to divide by in float32; lower "
                                "diffusion.timesteps or diffusion.beta_end");
  }
}

double NoiseSchedule::reverse_variance(std::int64_t t, VarianceType type) const {
  const auto index = static_cast<std::size_t>(t);
  if (t == 0) {
    return 0;
  }
  return type == VarianceType::fixed_small ? posterior_variance_.at(index) : betas_.at(index);
}

}  // namespace perrin::trainer
