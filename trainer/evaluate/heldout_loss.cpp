#include "trainer/evaluate/heldout_loss.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "data/batch_loader.hpp"
#include "trainer/diffusion/objective.hpp"
#include "trainer/images.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

constexpr Stream kEvaluationNoise{.seed = 0,
                                  .purpose = Purpose::evaluation_noise};  // one seed for all runs, so that runs compare

}  // namespace

HeldoutLoss evaluate_heldout(const UNet& model, const DiffusionProcess& process, const data::Dataset& heldout,
                             const EvaluateConfig& config, comm::Communicator& control, at::Device device) {
  const at::NoGradGuard no_grad;
  const data::ImageShape shape = heldout.shape();
  const std::int64_t images = std::min(config.images, static_cast<std::int64_t>(heldout.size()));
  const std::int64_t begin = control.rank() * images / control.size(),
                     end = (control.rank() + 1) * images / control.size();

  double sum = 0;
  for (std::int64_t first = begin; first < end; first += config.batch_size) {
    const std::int64_t count = std::min(config.batch_size, end - first);
    const data::Batch batch =
        data::read_batch(heldout, static_cast<std::uint64_t>(first), static_cast<std::uint64_t>(count));
    const at::Tensor t =
        (at::arange(first, first + count, at::kLong) * process.schedule().timesteps()).floor_divide(images).to(device);
    const at::Tensor eps =
        keyed_normal(kEvaluationNoise, batch.positions, {shape.channels, shape.height, shape.width}).to(device);
    const at::Tensor x_t = process.q_sample(to_model_range(batch.images, shape, device), t, eps);
    const at::Tensor eps_hat = model(x_t, t);
    sum += epsilon_loss_per_sample(eps_hat, eps).to(at::kDouble).sum().item<double>();
  }
  return {control.all_reduce_value(sum, comm::ReduceOp::sum) / static_cast<double>(images), images};
}

}  // namespace perrin::trainer
