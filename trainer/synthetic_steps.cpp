#include "trainer/synthetic_steps.hpp"

#include <ATen/ATen.h>

#include <numeric>

#include "trainer/compute_stream.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/optimize/gradient_reducer.hpp"
#include "trainer/optimize/shard_gather.hpp"
#include "trainer/random/keyed_noise.hpp"
#include "trainer/step_losses.hpp"

namespace perrin::trainer {

SyntheticSteps::SyntheticSteps(const Config& config, const data::ImageShape& shape, comm::World& world,
                               at::Device device)
    : config_(config),
      shape_(shape),
      world_(world),
      device_(device),
      network_(with_output_channels(config.model, shape, config.diffusion.variance_type)),
      process_(NoiseSchedule(config.diffusion), device),
      objective_(config, process_),
      level_sampler_(config, process_.schedule()),
      history_(config.objective.timesteps == TimestepSampling::importance ? config.diffusion.timesteps : 0),
      arena_(unet_parameters(network_, shape), config.ema.decays.size() + config.ema.power_sigmas.size(),
             config.run.seed, device, shard_options(config, world.rank(), world.size())),
      model_(network_, shape, arena_.trainable(), arena_.layout().memory_format()),
      plan_(config, world.size()),
      slices_(plan_.slices_of(world.rank())),
      optimizer_(config.optimizer, config.ema, config.train.steps) {}

void SyntheticSteps::step(std::int64_t number, comm::Communicator& gradients, bool overlap, ActivityClock& clock) {
  void* stream = compute_stream(device_);
  GradientReducer reducer(arena_, gradients, world_.control(), stream, config_.distributed.reduction,
                          config_.distributed.wire, overlap);
  ShardGather shards(arena_, gradients, stream);
  StepLosses losses(plan_.global_batch(), /*keep_each=*/false);
  world_.control().barrier().wait();
  clock.begin_step(number);
  for (std::size_t i = 0; i < slices_.size(); ++i) {
    clock.enter(Activity::forward);
    std::vector<std::uint64_t> positions(static_cast<std::size_t>(slices_[i].count));
    std::iota(positions.begin(), positions.end(), static_cast<std::uint64_t>(slices_[i].offset));
    const LevelDraw draw = level_sampler_.draw(positions, /*first=*/0, history_);
    const Network network = [&](const at::Tensor& x, const at::Tensor& condition) {
      return model_(x, condition, {.positions = positions, .seed = config_.run.seed, .training = true});
    };
    const ObjectiveTerms terms = objective_.terms(network, normals(Purpose::sampling_start, positions),
                                                  normals(Purpose::noise, positions), draw.levels);
    const at::Tensor loss = terms.loss.sum() / plan_.global_batch();
    clock.enter(Activity::backward);
    reducer.backward(loss, i, slices_.size());
    clock.enter(Activity::losses);
    losses.add(terms, draw, slices_[i].offset);
  }
  clock.enter(Activity::agreement);
  Votes votes;
  losses.add_up(world_.control(), votes);
  clock.enter(Activity::buckets);
  reducer.finish();
  const double norm = gradient_norm(arena_, world_.control());
  clock.enter(Activity::optimizer);
  optimizer_.update(arena_, norm, updates_, updates_, [&](std::size_t segment) { shards.send_weights(segment); });
  ++updates_;
  clock.enter(Activity::buckets);
  shards.finish();
  clock.leave();
}

at::Tensor SyntheticSteps::normals(Purpose purpose, std::span<const std::uint64_t> positions) const {
  return keyed_normal({.seed = config_.run.seed, .purpose = purpose}, positions,
                      {shape_.channels, shape_.height, shape_.width})
      .to(device_);
}

}  // namespace perrin::trainer
