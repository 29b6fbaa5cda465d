#include "trainer/diffusion/objective.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "trainer/diffusion/bound.hpp"
#include "trainer/diffusion/squared_error.hpp"
#include "trainer/images.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
Objective::Objective(const Config& config, const DiffusionProcess& process)
    : objective_(config.objective),
      prediction_(config.diffusion.prediction),
      variance_(config.diffusion.variance_type),
      sigma_data_(config.edm.sigma_data),
      process_(process) {}

at::Tensor Objective::condition(std::span<const NoiseLevel> levels, const at::Tensor& like) const {
  return prediction_ == PredictionType::edm ? per_level(levels, like, c_noise).view({-1}) : timesteps_of(levels, like);
}

at::Tensor Objective::network_output(const Network& network, const at::Tensor& x,
                                     std::span<const NoiseLevel> levels) const {
  return network(network_input(prediction_, x, levels, sigma_data_), condition(levels, x));
}

NoisedImages Objective::noised(const at::Tensor& x_0, const at::Tensor& eps, std::span<const NoiseLevel> levels) const {
  return noise_images(prediction_, sigma_data_, x_0, eps, levels);
}

NoisedImages Objective::noised(const at::Tensor& pixels, const at::Tensor& mirrored, const Stream& noise,
                               std::span<const std::uint64_t> positions, std::span<const NoiseLevel> levels,
                               at::ScalarType type) const {
  if (pixels.is_cpu() && objective_.loss == LossType::simple)
    return noise_pixels(prediction_, sigma_data_, pixels, mirrored, noise, positions, levels, type);
  at::Tensor x_0 = to_model_range(pixels);
  if (mirrored.defined()) x_0 = at::where(mirrored.view({-1, 1, 1, 1}), x_0.flip({3}), x_0);
  return noised(x_0, keyed_normal(noise, positions, x_0.sizes().slice(1)).to(x_0.device()), levels);
}

at::Tensor Objective::simple(const at::Tensor& F, const at::Tensor& x_0, const at::Tensor& eps,
                             std::span<const NoiseLevel> levels) const {
  const at::Tensor target = network_target(prediction_, x_0, eps, levels, sigma_data_);
  return mean_squared_error(F.narrow(1, 0, x_0.size(1)), target);
}

at::Tensor Objective::bound(const at::Tensor& F, const at::Tensor& x_t, const at::Tensor& x_0, const at::Tensor& eps,
                            std::span<const NoiseLevel> levels) const {
  const Prediction prediction = read_output(prediction_, x_t, F, levels, sigma_data_);
  const auto T = static_cast<double>(process_.schedule().timesteps());
  return T * bound_terms(process_, variance_, prediction, x_0, x_t, eps, timesteps_of(levels, x_t)).vb;
}

ObjectiveTerms Objective::terms(const Network& network, const NoisedImages& images,
                                std::span<const NoiseLevel> levels) const {
  const std::int64_t channels = images.target.size(1);
  const at::Tensor F = network(images.input, condition(levels, images.target));
  ObjectiveTerms terms{.loss = {}, .simple = mean_squared_error(F.narrow(1, 0, channels), images.target), .bound = {}};
  at::Tensor weighted = terms.simple;
  if (objective_.min_snr_gamma > 0) {
    weighted = weighted * per_level(levels, images.target, [&](const NoiseLevel& level) {
                            const double c_out = precondition(prediction_, level, sigma_data_).c_out;
                            const double snr = level.alpha * level.alpha / (level.sigma * level.sigma);
                            return std::min(snr, objective_.min_snr_gamma) * c_out * c_out;
                          }).view({-1});
  }
  switch (objective_.loss) {
    case LossType::simple:
      terms.loss = weighted;
      break;
    case LossType::vlb:
      terms.bound = bound(F, images.x, images.x_0, images.eps, levels);
      terms.loss = terms.bound;
      break;
    case LossType::hybrid: {
      const at::Tensor learns_variance =
          at::cat({F.narrow(1, 0, channels).detach(), F.narrow(1, channels, F.size(1) - channels)}, 1);
      terms.bound = bound(learns_variance, images.x, images.x_0, images.eps, levels);
      terms.loss = weighted + objective_.vlb_weight * terms.bound;
      break;
    }
  }
  return terms;
}

}  // namespace perrin::trainer
