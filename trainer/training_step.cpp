#include "trainer/training_step.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "trainer/compute_stream.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/precision.hpp"
#include "trainer/telemetry/operator_scope.hpp"

namespace perrin::trainer {

TrainingStep::TrainingStep(const Config& config, const data::ImageShape& shape, const DiffusionProcess& process,
                           ParameterArena& arena, comm::World& world, comm::Communicator& gradients, bool overlap)
    : config_(config),
      arena_(arena),
      world_(world),
      network_(with_output_channels(config.model, shape, config.diffusion.variance_type)),
      objective_(config, process),
      level_sampler_(config, process.schedule()),
      model_(network_, shape, arena.trainable(), arena.layout().memory_format()),
      plan_(config, world.size()),
      slices_(plan_.slices_of(world.rank())),
      reducer_(arena, gradients, world.control(), compute_stream(arena.device()), config.distributed.reduction,
               config.distributed.wire, overlap),
      shards_(arena, gradients, compute_stream(arena.device())),
      optimizer_(config.optimizer, config.ema, config.train.steps) {}

void TrainingStep::backward(const SliceImages& images, std::size_t slice, std::uint64_t first,
                            const LossHistory& history, StepLosses& losses, ActivityClock& clock) {
  const std::uint64_t seed = config_.run.seed;
  clock.enter(Activity::forward);
  const LevelDraw draw = level_sampler_.draw(images.positions, first, history);
  const Network network = [&](const at::Tensor& x, const at::Tensor& condition) {
    return model_(x, condition,
                  {.positions = images.positions, .seed = seed, .training = true, .labels = images.labels});
  };
  const NoisedImages noised = [&] {
    const OperatorScope scope("input");
    return objective_.noised(images.pixels, images.mirrored, {.seed = seed, .purpose = Purpose::noise},
                             images.positions, draw.levels, compute_type(config_.train.precision, arena_.device()));
  }();
  const ObjectiveTerms terms = objective_.terms(network, noised, draw.levels);
  const at::Tensor weights = per_image(draw.weights, terms.loss).view({-1});
  const at::Tensor loss = (weights * terms.loss).sum() / plan_.global_batch();
  clock.enter(Activity::backward);
  reducer_.backward(loss, slice, slices_.size());  // last: buckets leave
  clock.enter(Activity::losses);
  losses.add(terms, draw, slices_[slice].offset);
}

UpdateOutcome TrainingStep::update(double loss, const Progress& progress, ActivityClock& clock) {
  clock.enter(Activity::buckets);
  reducer_.finish();
  clock.enter(Activity::optimizer);
  const double norm = std::isfinite(loss) ? gradient_norm(arena_, world_.control()) : NAN;
  const UpdateOutcome outcome = optimizer_.update(arena_, norm, progress.step, progress.updates,  // clip, Adam, EMA
                                                  [&](std::size_t segment) { shards_.send_weights(segment); });
  if (arena_.plan().sharded()) clock.enter(Activity::buckets);
  shards_.finish();
  return outcome;
}

}  // namespace perrin::trainer
