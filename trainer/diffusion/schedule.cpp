#include "trainer/diffusion/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace perrin::trainer {
namespace {

constexpr double kLeastSignal = 1e-30;  // of alphas_cumprod; x_0 is predicted by dividing by its root

/// `count` values evenly from first to last; the first alone where there is one.
std::vector<double> evenly(double first, double last, std::int64_t count) {
  std::vector<double> values(static_cast<std::size_t>(count), first);
  for (std::size_t i = 1; i < values.size(); ++i)
    values[i] = first + (last - first) * static_cast<double>(i) / static_cast<double>(values.size() - 1);
  return values;
}

std::vector<double> quadratic_betas(const DiffusionConfig& config) {
  std::vector<double> betas = evenly(std::sqrt(config.beta_start), std::sqrt(config.beta_end), config.timesteps);
  for (double& beta : betas) beta *= beta;
  return betas;
}

std::vector<double> sigmoid_betas(const DiffusionConfig& config) {
  constexpr double kReach = 6;
  std::vector<double> betas = evenly(-kReach, kReach, config.timesteps);
  for (double& beta : betas) beta = config.beta_start + (config.beta_end - config.beta_start) / (1 + std::exp(-beta));
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

std::string in_digits(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

std::vector<double> running_product_of_alphas(const std::vector<double>& betas) {
  std::vector<double> products;
  double product = 1;
  for (const double beta : betas) products.push_back(product *= 1 - beta);
  return products;
}

}  // namespace

std::vector<double> make_betas(const DiffusionConfig& config) {
  if (config.timesteps < 1) {
    throw std::invalid_argument("diffusion.timesteps is " + std::to_string(config.timesteps) +
                                "; at least 1 is needed");
  }
  switch (config.beta_schedule) {
    case BetaSchedule::linear:
      return evenly(config.beta_start, config.beta_end, config.timesteps);
    case BetaSchedule::quadratic:
      return quadratic_betas(config);
    case BetaSchedule::cosine:
      return cosine_betas(config.timesteps);
    case BetaSchedule::sigmoid:
      return sigmoid_betas(config);
    case BetaSchedule::listed:
      break;
  }
  if (static_cast<std::int64_t>(config.betas.size()) != config.timesteps) {
    throw std::invalid_argument("diffusion.betas lists " + std::to_string(config.betas.size()) +
                                " betas for diffusion.timesteps = " + std::to_string(config.timesteps) +
                                "; give one for each timestep");
  }
  return config.betas;
}

std::vector<double> rescale_zero_terminal_snr(const std::vector<double>& betas) {
  std::vector<double> roots = running_product_of_alphas(betas);
  for (double& root : roots) root = std::sqrt(root);
  if (roots.size() < 2) throw std::invalid_argument("a schedule of one timestep cannot end without signal");
  const double first = roots.front(), last = roots.back();
  std::vector<double> rescaled;
  double previous = 1;
  for (const double root : roots) {
    const double signal = (root - last) * first / (first - last);  // exactly 0 at the last
    rescaled.push_back(1 - signal * signal / previous);
    previous = signal * signal;
  }
  return rescaled;
}

NoiseSchedule::NoiseSchedule(const DiffusionConfig& config)
    : NoiseSchedule(config.zero_terminal_snr ? rescale_zero_terminal_snr(make_betas(config)) : make_betas(config)) {}

NoiseSchedule::NoiseSchedule(std::vector<double> betas)
    : betas_(std::move(betas)), alphas_cumprod_(running_product_of_alphas(betas_)) {
  if (betas_.empty()) throw std::invalid_argument("a noise schedule needs at least one timestep");
  for (std::size_t t = 0; t < betas_.size(); ++t) {
    const double beta = betas_[t];
    const bool last = t + 1 == betas_.size() && t > 0;
    if (!(beta > 0 && (beta < 1 || (last && beta == 1)))) {
      throw std::invalid_argument("beta at t = " + std::to_string(t) + " is " + in_digits(beta) +
                                  ", not in (0, 1); check diffusion.beta_start, diffusion.beta_end and "
                                  "diffusion.betas");
    }
    const double product = alphas_cumprod_[t], previous = t == 0 ? 1 : alphas_cumprod_[t - 1];
    alphas_cumprod_prev_.push_back(previous);
    posterior_variance_.push_back(beta * (1 - previous) / (1 - product));
    posterior_mean_coef_x0_.push_back(beta * std::sqrt(previous) / (1 - product));
    posterior_mean_coef_xt_.push_back((1 - previous) * std::sqrt(1 - beta) / (1 - product));
  }
  // Only a last beta of exactly 1 may leave no signal; anything else that falls so low has underflowed.
  const bool ends_without = betas_.back() == 1;
  const double least = alphas_cumprod_[alphas_cumprod_.size() - (ends_without ? 2 : 1)];
  if (least < kLeastSignal) {
    throw std::invalid_argument("alphas_cumprod falls to " + in_digits(least) +
                                ", too little to divide by in float32; lower diffusion.timesteps or "
                                "diffusion.beta_end");
  }
}

double NoiseSchedule::posterior_log_variance(std::int64_t t) const {
  if (t > 0) return std::log(posterior_variance_.at(static_cast<std::size_t>(t)));
  return std::log(timesteps() > 1 ? posterior_variance_[1] : betas_[0]);
}

double NoiseSchedule::reverse_log_variance(std::int64_t t, VarianceType type) const {
  if (type == VarianceType::learned_range) throw std::invalid_argument("a learned variance is not in the schedule");
  if (type == VarianceType::fixed_small || t == 0) return posterior_log_variance(t);
  return std::log(betas_.at(static_cast<std::size_t>(t)));
}

NoiseLevel NoiseSchedule::level(std::int64_t t) const {
  const double abar = alphas_cumprod_.at(static_cast<std::size_t>(t));
  return {std::sqrt(abar), std::sqrt(1 - abar), t};
}

double NoiseSchedule::snr(std::int64_t t) const {
  const double abar = alphas_cumprod_.at(static_cast<std::size_t>(t));
  return abar / (1 - abar);
}

std::int64_t NoiseSchedule::nearest_timestep(double sigma_over_alpha) const {
  const auto distance = [&](double abar) { return std::abs(std::sqrt((1 - abar) / abar) - sigma_over_alpha); };
  const auto nearest = std::min_element(alphas_cumprod_.begin(), alphas_cumprod_.end(),
                                        [&](double one, double other) { return distance(one) < distance(other); });
  return nearest - alphas_cumprod_.begin();
}

NoiseSchedule respaced(const NoiseSchedule& schedule, const std::vector<std::int64_t>& timesteps) {
  std::vector<double> betas;
  double previous = 1;
  for (const std::int64_t t : timesteps) {
    const double abar = schedule.alphas_cumprod().at(static_cast<std::size_t>(t));
    betas.push_back(1 - abar / previous);
    previous = abar;
  }
  return NoiseSchedule(std::move(betas));
}

}  // namespace perrin::trainer
