#include "trainer/evaluate/heldout_loss.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <vector>

#include "data/batch_loader.hpp"
#include "trainer/diffusion/bound.hpp"
#include "trainer/diffusion/level_sampler.hpp"
#include "trainer/diffusion/objective.hpp"
#include "trainer/evaluate/model_denoiser.hpp"
#include "trainer/images.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

constexpr Stream kEvaluationNoise{.seed = 0,
                                  .purpose = Purpose::evaluation_noise};  // one seed for all runs, so that runs compare

double sum_of(const at::Tensor& values) { return values.to(at::kDouble).sum().item<double>(); }

}  // namespace

HeldoutLoss evaluate_heldout(const UNet& model, const Config& config, const DiffusionProcess& process,
                             const data::Dataset& heldout, comm::Communicator& control, at::Device device) {
  const at::NoGradGuard no_grad;
  const data::ImageShape shape = heldout.shape();
  const bool discrete = config.diffusion.prediction != PredictionType::edm;
  const Objective objective(config, process);
  const LevelSampler sampler(config, process.schedule());
  const std::int64_t images = std::min(config.evaluate.images, static_cast<std::int64_t>(heldout.size())),
                     size = config.evaluate.batch_size;
  const std::int64_t begin = control.rank() * images / control.size(),
                     end = (control.rank() + 1) * images / control.size();

  std::array<double, 2> sums = {0, 0};  // L_simple, bound
  for (std::int64_t first = begin; first < end; first += size) {
    const std::int64_t count = std::min(size, end - first);
    const data::Batch batch =
        data::read_batch(heldout, static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(count));
    std::vector<NoiseLevel> levels;
    for (std::int64_t i = first; i < first + count; ++i) levels.push_back(sampler.evenly(i, images));
    const at::Tensor eps =
        keyed_normal(kEvaluationNoise, batch.positions, {shape.channels, shape.height, shape.width}).to(device);
    const at::Tensor x_0 = to_model_range(batch.images, shape, device);
    const at::Tensor x = q_sample(x_0, eps, levels);
    const Network network = network_of(model, labels_of(batch, config.model, device));
    const at::Tensor F = objective.network_output(network, x, levels);
    sums[0] += sum_of(objective.simple(F, x_0, eps, levels));
    if (discrete) sums[1] += sum_of(objective.bound(F, x, x_0, eps, levels) + prior_term(process, x_0));
  }
  control.all_reduce(std::span<double>(sums), comm::ReduceOp::sum).wait();
  const auto n = static_cast<double>(images);
  return {sums[0] / n, discrete ? std::optional(sums[1] / n) : std::nullopt, images};
}

}  // namespace perrin::trainer
