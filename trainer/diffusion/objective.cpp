#include "trainer/diffusion/objective.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "trainer/diffusion/bound.hpp"

namespace perrin::trainer {
Objective::Objective(const Config& config, const DiffusionProcess& process)
    : objective_(config.objective),
      prediction_(config.diffusion.prediction),
      variance_(config.diffusion.variance_type),
      sigma_data_(config.edm.sigma_data),
      process_(process) {}

at::Tensor Objective::network_output(const Network& network, const at::Tensor& x,
                                     std::span<const NoiseLevel> levels) const {
  if (prediction_ != PredictionType::edm) return network(x, timesteps_of(levels, x));
  const auto c_in = [&](const NoiseLevel& level) { return precondition(prediction_, level, sigma_data_).c_in; };
  return network(per_level(levels, x, c_in) * x, per_level(levels, x, c_noise).view({-1}));
}

at::Tensor Objective::simple(const at::Tensor& F, const at::Tensor& x_0, const at::Tensor& eps,
                             std::span<const NoiseLevel> levels) const {
  const at::Tensor target = network_target(prediction_, x_0, eps, levels, sigma_data_);
  return at::mse_loss(F.narrow(1, 0, x_0.size(1)), target, at::Reduction::None).mean({1, 2, 3});
}

at::Tensor Objective::bound(const at::Tensor& F, const at::Tensor& x_t, const at::Tensor& x_0, const at::Tensor& eps,
                            std::span<const NoiseLevel> levels) const {
  const Prediction prediction = read_output(prediction_, x_t, F, levels, sigma_data_);
  const auto T = static_cast<double>(process_.schedule().timesteps());
  return T * bound_terms(process_, variance_, prediction, x_0, x_t, eps, timesteps_of(levels, x_t)).vb;
}

ObjectiveTerms Objective::terms(const Network& network, const at::Tensor& x_0, const at::Tensor& eps,
                                std::span<const NoiseLevel> levels) const {
  const at::Tensor x = q_sample(x_0, eps, levels);
  const at::Tensor F = network_output(network, x, levels);
  ObjectiveTerms terms{.loss = {}, .simple = simple(F, x_0, eps, levels), .bound = {}};
  at::Tensor weighted = terms.simple;
  if (objective_.min_snr_gamma > 0) {
    weighted = weighted * per_level(levels, x, [&](const NoiseLevel& level) {
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
      terms.bound = bound(F, x, x_0, eps, levels);
      terms.loss = terms.bound;
      break;
    case LossType::hybrid: {
      const std::int64_t channels = x_0.size(1);
      const at::Tensor learns_variance =
          at::cat({F.narrow(1, 0, channels).detach(), F.narrow(1, channels, F.size(1) - channels)}, 1);
      terms.bound = bound(learns_variance, x, x_0, eps, levels);
      terms.loss = weighted + objective_.vlb_weight * terms.bound;
      break;
    }
  }
  return terms;
}

}  // namespace perrin::trainer
