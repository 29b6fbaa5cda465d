#include "trainer/evaluate/heldout_loss.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <vector>

#include "data/batch_loader.hpp"
#include "trainer/deadlines.hpp"
#include "trainer/diffusion/bound.hpp"
#include "trainer/diffusion/level_sampler.hpp"
#include "trainer/diffusion/objective.hpp"
#include "trainer/evaluate/bound_points.hpp"
#include "trainer/evaluate/model_denoiser.hpp"
#include "trainer/images.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

constexpr Stream kEvaluationNoise{.seed = 0,
                                  .purpose = Purpose::evaluation_noise};  // one seed for all runs, so that runs compare

double sum_of(const at::Tensor& values) { return values.to(at::kDouble).sum().item<double>(); }

}  // namespace

std::optional<HeldoutLoss> evaluate_heldout(const UNet& model, const Config& config, const DiffusionProcess& process,
                                            const data::Dataset& heldout, comm::Communicator& control,
                                            at::Device device, const Interrupt& interrupt) {
  const at::NoGradGuard no_grad;
  const data::ImageShape shape = heldout.shape();
  const bool discrete = config.diffusion.prediction != PredictionType::edm;
  const Objective objective(config, process);
  const LevelSampler sampler(config, process.schedule());
  const std::int64_t images = std::min(config.evaluate.images, static_cast<std::int64_t>(heldout.size())),
                     size = config.evaluate.batch_size,
                     rounds = ((images + control.size() - 1) / control.size() + size - 1) / size;
  const std::int64_t begin = control.rank() * images / control.size(),
                     end = (control.rank() + 1) * images / control.size();

  const std::vector<BoundPoint> points = bound_points(images, process.schedule().timesteps());
  std::array<double, 3> sums = {0, 0, 0};  // L_simple, terms of the bound, L_T
  for (std::int64_t round = 0; round < rounds; ++round) {
    if (interrupt && interrupt()) return std::nullopt;
    const std::int64_t first = begin + round * size;
    if (first >= end) continue;  // other ranks have an image more
    const std::int64_t count = std::min(size, end - first);
    const data::Batch batch =
        data::read_batch(heldout, static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(count));
    std::vector<NoiseLevel> levels;
    for (std::int64_t i = first; i < first + count; ++i) levels.push_back(sampler.evenly(i, images));
    const at::Tensor eps =
        keyed_normal(kEvaluationNoise, batch.positions, {shape.channels, shape.height, shape.width}).to(device);
    const at::Tensor x_0 = to_model_range(batch.images, shape, device);
    const Network network = network_of(model, to_labels(batch.labels, config.model, device));
    const auto output = [&](const at::Tensor& x, std::span<const NoiseLevel> at_levels) {
      return objective.network_output(network, x, at_levels);
    };
    sums[0] += sum_of(objective.simple(output(q_sample(x_0, eps, levels), levels), x_0, eps, levels));
    if (!discrete) continue;
    const std::span<const BoundPoint> here(points.data() + first, static_cast<std::size_t>(count));
    std::vector<NoiseLevel> bound_levels;
    std::vector<double> weights;
    for (const BoundPoint& point : here) {
      bound_levels.push_back(process.schedule().level(point.t));
      weights.push_back(point.weight);
    }
    const at::Tensor x_t = q_sample(x_0, eps, bound_levels);
    Prediction prediction =
        read_output(config.diffusion.prediction, x_t, output(x_t, bound_levels), bound_levels, config.edm.sigma_data);
    prediction.x0 = prediction.x0.clamp(-1, 1);  // as published figures, and `perrin evaluate --metric vlb`
    const at::Tensor vb =
        bound_terms(process, config.diffusion.variance_type, prediction, x_0, x_t, eps, timesteps_of(bound_levels, x_0))
            .vb;
    sums[1] += sum_of(per_image(weights, x_0).view({-1}) * vb);
    sums[2] += sum_of(prior_term(process, x_0));
  }
  control.all_reduce(std::span<double>(sums), comm::ReduceOp::sum)
      .wait(kLongWork);  // ranks may have one batch more or less
  const auto n = static_cast<double>(images);
  return HeldoutLoss{sums[0] / n, discrete ? std::optional(sums[1] + sums[2] / n) : std::nullopt, images};
}

}  // namespace perrin::trainer
