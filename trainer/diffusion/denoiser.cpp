#include "trainer/diffusion/denoiser.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>
#include <vector>

namespace perrin::trainer {
namespace {

constexpr double kOnTheProcess = 1e-6;  // |alpha^2 + sigma^2 - 1| of a level of the discrete process

/// x and its level, scaled onto the discrete process and told its timestep.
std::pair<at::Tensor, NoiseLevel> on_discrete_process(const at::Tensor& x, const NoiseLevel& level,
                                                      const NoiseSchedule& trained) {
  const double length = std::hypot(level.alpha, level.sigma);
  const bool scaled = std::abs(length * length - 1) > kOnTheProcess;
  NoiseLevel there = scaled ? NoiseLevel{level.alpha / length, level.sigma / length, level.t} : level;
  if (there.t < 0) there.t = trained.nearest_timestep(level.sigma / level.alpha);
  return {scaled ? x / length : x, there};
}

}  // namespace

Denoiser make_denoiser(Network network, PredictionType prediction, double sigma_data,
                       std::shared_ptr<const NoiseSchedule> trained) {
  return [=, network = std::move(network)](const at::Tensor& x, const NoiseLevel& level) {
    const auto images = static_cast<std::size_t>(x.size(0));
    if (prediction == PredictionType::edm) {
      const double c_in = precondition(prediction, level, sigma_data).c_in;
      const at::Tensor output = network(x * c_in, at::full({x.size(0)}, c_noise(level), x.options()));
      return read_output(prediction, x, output, std::vector(images, level), sigma_data);
    }
    const auto [x_t, at_t] = on_discrete_process(x, level, *trained);
    const at::Tensor output = network(x_t, at::full({x.size(0)}, at_t.t, x.options().dtype(at::kLong)));
    return read_output(prediction, x_t, output, std::vector(images, at_t), sigma_data);
  };
}

Denoiser with_guidance(Denoiser conditional, Denoiser unconditional, double scale, double sigma_min, double sigma_max) {
  if (scale == 1) return conditional;
  return [=](const at::Tensor& x, const NoiseLevel& level) {
    Prediction guided = conditional(x, level);
    const double sigma = level.sigma / level.alpha;
    if (sigma <= sigma_min || (sigma_max > 0 && sigma > sigma_max)) return guided;
    const Prediction free = unconditional(x, level);
    // x0 and eps are affine in the network's output, so that guiding them is guiding it.
    guided.x0 = free.x0 + scale * (guided.x0 - free.x0);
    guided.eps = free.eps + scale * (guided.eps - free.eps);
    return guided;
  };
}

Denoiser with_clipped_x0(Denoiser denoiser, ClipX0 clip, double percentile) {
  if (clip == ClipX0::none) return denoiser;
  return [=, denoiser = std::move(denoiser)](const at::Tensor& x, const NoiseLevel& level) {
    Prediction prediction = denoiser(x, level);
    if (clip == ClipX0::fixed) {
      prediction.x0 = prediction.x0.clamp(-1, 1);
    } else {
      const at::Tensor limit =
          at::quantile(prediction.x0.flatten(1).abs(), percentile, 1).clamp_min(1).view({-1, 1, 1, 1});
      prediction.x0 = at::minimum(at::maximum(prediction.x0, -limit), limit) / limit;
    }
    prediction.eps = (x - level.alpha * prediction.x0) / level.sigma;
    return prediction;
  };
}

}  // namespace perrin::trainer
