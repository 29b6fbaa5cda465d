#include "trainer/training_step.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/range.hpp"
#include "trainer/compute_stream.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/precision.hpp"
#include "trainer/telemetry/operator_scope.hpp"

namespace perrin::trainer {
namespace {

constexpr std::int64_t kFewestImages = 4;
constexpr std::int64_t kMostParts = 4;

at::Tensor part_of_rows(const at::Tensor& rows, std::int64_t first, std::int64_t count) {
  return rows.defined() ? rows.narrow(0, first, count) : rows;
}

}  // namespace

struct TrainingStep::Pass {
  LevelDraw draw;
  ObjectiveTerms terms;
};

SliceImages SliceImages::part(std::int64_t first, std::int64_t count) const {
  return {.pixels = part_of_rows(pixels, first, count),
          .positions = positions.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
          .mirrored = part_of_rows(mirrored, first, count),
          .labels = part_of_rows(labels, first, count)};
}

std::size_t parts_of_slice(std::int64_t images, int threads, at::Device device) {
  if (!device.is_cpu()) return 1;
  return static_cast<std::size_t>(
      std::clamp<std::int64_t>(std::min<std::int64_t>(images / kFewestImages, threads), 1, kMostParts));
}

TrainingStep::TrainingStep(const Config& config, const data::ImageShape& shape, const DiffusionProcess& process,
                           ParameterArena& arena, comm::World& world, comm::Communicator& gradients, bool overlap)
    : config_(config),
      arena_(arena),
      world_(world),
      network_(with_output_channels(config.model, shape, config.diffusion.variance_type)),
      objective_(config, process),
      level_sampler_(config, process.schedule()),
      plan_(config, world.size()),
      slices_(plan_.slices_of(world.rank())),
      threads_(at::get_num_threads()),
      // As the largest slice of all ranks needs it: a virtual shard meets the same threads on whichever rank it is.
      team_(parts_of_slice(plan_.largest_slice(), threads_, arena.device()), threads_),
      reducer_(arena, gradients, world.control(), compute_stream(arena.device()), config.distributed.reduction,
               config.distributed.wire, overlap, &team_),
      shards_(arena, gradients, compute_stream(arena.device())),
      optimizer_(config.optimizer, config.ema, config.train.steps) {
  for (std::size_t part = 0; part < team_.size(); ++part)
    models_.emplace_back(network_, shape, arena.trainable(reducer_.leaves(part)), arena.layout().memory_format());
}

void TrainingStep::backward(const SliceImages& images, std::size_t slice, std::uint64_t first,
                            const LossHistory& history, StepLosses& losses, ActivityClock& clock) {
  const std::int64_t count = slices_[slice].count;
  std::vector<Pass> passes(parts_of_slice(count, threads_, arena_.device()));
  std::vector<at::Tensor> sums(passes.size());
  const auto range_of = [&](std::size_t part) {
    return comm::part_of({0, static_cast<std::size_t>(count)}, static_cast<int>(part), static_cast<int>(passes.size()));
  };
  clock.enter(Activity::forward);
  team_.run(passes.size(), [&](std::size_t part) {
    const comm::Range range = range_of(part);
    passes[part] =
        forward(images.part(static_cast<std::int64_t>(range.begin), static_cast<std::int64_t>(range.length())), part,
                first, history);
    const ObjectiveTerms& terms = passes[part].terms;
    const at::Tensor weights = per_image(passes[part].draw.weights, terms.loss).view({-1});
    sums[part] = (weights * terms.loss).sum() / plan_.global_batch();
  });
  clock.enter(Activity::backward);
  reducer_.backward(sums, slice, slices_.size());  // last: buckets leave
  clock.enter(Activity::losses);
  for (std::size_t part = 0; part < passes.size(); ++part)
    losses.add(passes[part].terms, passes[part].draw,
               slices_[slice].offset + static_cast<std::int64_t>(range_of(part).begin));
}

TrainingStep::Pass TrainingStep::forward(const SliceImages& images, std::size_t part, std::uint64_t first,
                                         const LossHistory& history) const {
  const std::uint64_t seed = config_.run.seed;
  LevelDraw draw = level_sampler_.draw(images.positions, first, history);
  const Network network = [&](const at::Tensor& x, const at::Tensor& condition) {
    return models_[part](x, condition,
                         {.positions = images.positions, .seed = seed, .training = true, .labels = images.labels});
  };
  const NoisedImages noised = [&] {
    const OperatorScope scope("input");
    return objective_.noised(images.pixels, images.mirrored, {.seed = seed, .purpose = Purpose::noise},
                             images.positions, draw.levels, compute_type(config_.train.precision, arena_.device()));
  }();
  ObjectiveTerms terms = objective_.terms(network, noised, draw.levels);
  return {.draw = std::move(draw), .terms = std::move(terms)};
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
