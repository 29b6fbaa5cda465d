#include "trainer/begin_run.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <string_view>

#include "comm/local_communicator.hpp"
#include "data/file.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_writer.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::trainer {
namespace {

TrainingState state_with(const std::map<std::string, at::Tensor>& weights, const Config& config,
                         const data::ImageShape& shape) {
  const bool importance = config.objective.timesteps == TimestepSampling::importance;
  TrainingState state{
      .arena = ParameterArena(
          unet_parameters(with_output_channels(config.model, shape, config.diffusion.variance_type), shape),
          config.ema.decays.size() + config.ema.power_sigmas.size(), config.run.seed, at::kCPU),
      .progress = {},
      .losses = {},
      .loss_history = LossHistory(importance ? config.diffusion.timesteps : 0)};
  for (const auto& range : state.arena.layout().ranges())
    state.arena.layout().view(state.arena.weights(), range).copy_(weights.at(range.name));
  for (const at::Tensor& ema : state.arena.emas()) ema.copy_(state.arena.weights());
  return state;
}

}  // namespace

void begin_run(const Config& config, const CheckpointOrigin& origin, const std::map<std::string, at::Tensor>& weights) {
  const at::NoGradGuard no_grad;
  TrainingState state = state_with(weights, config, origin.image_shape);
  const RunPaths paths(config.run.directory);
  const data::DirectoryLock claim = claim_run_folder(paths);
  comm::LocalCommunicator control;
  const Incarnation incarnation = Incarnation::begin(paths, control);
  const ShardGather shards(state.arena, control, /*compute_stream=*/nullptr);
  CheckpointWriter writer(state, shards, control, incarnation, config.checkpoint);
  writer.begin_checkpoint({.parent = paths.checkpoints(), .origin = origin, .resumed_from = {}});
  const auto outcome = writer.finish();
  if (!outcome || !outcome->published)
    throw CheckpointError(paths.checkpoints(), "the first checkpoint could not be written; the warning above says why");
  data::write_file_durably(paths.config(), std::string_view(origin.config));
}

}  // namespace perrin::trainer
