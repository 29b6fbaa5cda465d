#include "trainer/diffusion/parameterization.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <stdexcept>
#include <vector>

#include "trainer/diffusion/same_shape.hpp"

namespace perrin::trainer {
namespace {

double alpha_of(const NoiseLevel& level) { return level.alpha; }
double sigma_of(const NoiseLevel& level) { return level.sigma; }

void require_levels(const at::Tensor& batch, std::span<const NoiseLevel> levels) {
  if (batch.dim() < 2 || batch.size(0) != static_cast<std::int64_t>(levels.size()))
    throw std::invalid_argument(std::to_string(levels.size()) + " noise levels for a batch of shape " +
                                c10::str(batch.sizes()));
}

}  // namespace

Preconditioning precondition(PredictionType prediction, const NoiseLevel& level, double sigma_data) {
  switch (prediction) {
    case PredictionType::epsilon:
      return {1 / level.alpha, -level.sigma / level.alpha, 1};
    case PredictionType::x0:
      return {0, 1, 1};
    case PredictionType::v:
      return {level.alpha, -level.sigma, 1};
    case PredictionType::edm:
      break;
  }
  // Karras et al. 2022, table 1, for x / alpha = x_0 + (sigma / alpha) eps.
  const double sigma = level.sigma / level.alpha;
  const double variance = sigma * sigma + sigma_data * sigma_data;
  return {sigma_data * sigma_data / variance / level.alpha, sigma * sigma_data / std::sqrt(variance),
          1 / std::sqrt(variance) / level.alpha};
}

Target target_of(PredictionType prediction, const NoiseLevel& level, double sigma_data) {
  switch (prediction) {
    case PredictionType::epsilon:
      return {0, 1};
    case PredictionType::x0:
      return {1, 0};
    case PredictionType::v:
      return {-level.sigma, level.alpha};
    case PredictionType::edm:
      break;
  }
  // (x_0 - c_skip x) / c_out with x = alpha (x_0 + sigma eps), without the difference of large numbers.
  const double sigma = level.sigma / level.alpha;
  const double root = std::sqrt(sigma * sigma + sigma_data * sigma_data);
  return {sigma / sigma_data / root, -sigma_data / root};
}

double c_noise(const NoiseLevel& level) { return std::log(level.sigma / level.alpha) / 4; }

at::Tensor per_image(std::span<const double> values, const at::Tensor& like) {
  const at::Tensor on_host = at::tensor(at::ArrayRef<double>(values.data(), values.size()), at::kDouble);
  return on_host.to(like.scalar_type()).to(like.device()).view({-1, 1, 1, 1});
}

at::Tensor per_level(std::span<const NoiseLevel> levels, const at::Tensor& like,
                     const std::function<double(const NoiseLevel&)>& number) {
  std::vector<double> values;
  values.reserve(levels.size());
  for (const NoiseLevel& level : levels) values.push_back(number(level));
  return per_image(values, like);
}

at::Tensor timesteps_of(std::span<const NoiseLevel> levels, const at::Tensor& like) {
  std::vector<std::int64_t> t;
  for (const NoiseLevel& level : levels) t.push_back(level.t);
  return at::tensor(t, at::kLong).to(like.device());
}

at::Tensor q_sample(const at::Tensor& x_0, const at::Tensor& eps, std::span<const NoiseLevel> levels) {
  require_levels(x_0, levels);
  require_same_shape(x_0, eps);
  return per_level(levels, x_0, alpha_of) * x_0 + per_level(levels, x_0, sigma_of) * eps;
}

at::Tensor network_input(PredictionType prediction, const at::Tensor& x, std::span<const NoiseLevel> levels,
                         double sigma_data) {
  if (prediction != PredictionType::edm) return x;  // c_in is 1
  return per_level(levels, x, [&](const NoiseLevel& l) { return precondition(prediction, l, sigma_data).c_in; }) * x;
}

at::Tensor network_target(PredictionType prediction, const at::Tensor& x_0, const at::Tensor& eps,
                          std::span<const NoiseLevel> levels, double sigma_data) {
  require_levels(x_0, levels);
  require_same_shape(x_0, eps);
  const auto of_x0 = [&](const NoiseLevel& l) { return target_of(prediction, l, sigma_data).of_x0; };
  const auto of_eps = [&](const NoiseLevel& l) { return target_of(prediction, l, sigma_data).of_eps; };
  return per_level(levels, x_0, of_x0) * x_0 + per_level(levels, x_0, of_eps) * eps;
}

Prediction read_output(PredictionType prediction, const at::Tensor& x, const at::Tensor& output,
                       std::span<const NoiseLevel> levels, double sigma_data) {
  require_levels(x, levels);
  const std::int64_t channels = x.size(1);
  if (output.size(1) != channels && output.size(1) != 2 * channels)
    throw std::invalid_argument("a network's output has " + std::to_string(output.size(1)) +
                                " channels for images of " + std::to_string(channels));
  Prediction read;
  if (output.size(1) == 2 * channels) read.variance_fraction = (output.narrow(1, channels, channels) + 1) / 2;
  const at::Tensor F = output.narrow(1, 0, channels);
  const auto c_skip = [&](const NoiseLevel& l) { return precondition(prediction, l, sigma_data).c_skip; };
  const auto c_out = [&](const NoiseLevel& l) { return precondition(prediction, l, sigma_data).c_out; };
  read.x0 = prediction == PredictionType::x0 ? F : per_level(levels, x, c_skip) * x + per_level(levels, x, c_out) * F;
  if (prediction == PredictionType::epsilon)
    read.eps = F;
  else if (prediction == PredictionType::v)
    read.eps = per_level(levels, x, sigma_of) * x + per_level(levels, x, alpha_of) * F;
  else
    read.eps = (x - per_level(levels, x, alpha_of) * read.x0) / per_level(levels, x, sigma_of);
  return read;
}

}  // namespace perrin::trainer
