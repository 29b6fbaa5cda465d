#include "trainer/train.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <optional>

#include "data/dataset.hpp"
#include "data/file.hpp"
#include "data/sample_order.hpp"
#include "data/sha256.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/resume.hpp"
#include "trainer/compute_stream.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/run_error.hpp"
#include "trainer/run_folder.hpp"
#include "trainer/same_on_all_ranks.hpp"
#include "trainer/training_loop.hpp"

namespace perrin::trainer {
namespace {

std::optional<data::Dataset> open_heldout(const DataConfig& config, const data::ImageShape& shape) {
  if (config.heldout.empty()) return std::nullopt;
  data::Dataset heldout(config.heldout);
  if (heldout.shape() != shape)
    throw RunError("the held-out images (" + config.heldout + ") have another shape than the training images (" +
                   config.train + ")");
  return heldout;
}

/// What the bits of a run depend on beside its configuration: of all ranks, or "mixed".
std::string machine_of(comm::World& world, at::Device device) {
  const std::string own = device.is_cpu() ? fmt::format("{} thread{} a rank, {}", at::get_num_threads(),
                                                        at::get_num_threads() == 1 ? "" : "s", at::get_cpu_capability())
                                          : "cuda";
  const std::string hash = data::sha256_hex(own);
  const auto word = static_cast<std::int64_t>(std::stoull(hash.substr(0, 15), nullptr, 16));
  const bool same = world.control().all_reduce_value(word, comm::ReduceOp::max) ==
                    world.control().all_reduce_value(word, comm::ReduceOp::min);
  return same ? own : "mixed";
}

void warn_of_other_bits(const Config& config, const std::string& now, const std::string& before) {
  if (config.distributed.reduction != Reduction::reproducible) return;
  if (now == "mixed")
    spdlog::warn(
        "the ranks differ in threads or instruction set, so the bits of this run are not reproducible; give "
        "distributed.threads, and one type of machine");
  else if (!before.empty() && before != now)
    spdlog::warn("the checkpoint was made with {}, this start has {}: the same formulas, but not the same bits", before,
                 now);
}

}  // namespace

TrainOutcome train(const Config& config, const std::string& resolved_config, comm::World& world, at::Device device,
                   std::optional<TraceSteps> trace) {
  const RunPaths paths(config.run.directory);
  require_same_on_all_ranks(world.control(), resolved_config, "the resolved configurations");

  const data::Dataset train_set(config.data.train, {.read = config.data.read, .warm_up = config.data.warm_up});
  const auto heldout = open_heldout(config.data, train_set.shape());
  require_same_on_all_ranks(world.control(), train_set.fingerprint() + (heldout ? heldout->fingerprint() : ""),
                            "the datasets");

  const CheckpointOrigin origin{.config = resolved_config,
                                .dataset_fingerprint = train_set.fingerprint(),
                                .image_shape = train_set.shape(),
                                .sample_order = std::string(data::SampleOrder::kAlgorithm),
                                .ema_decays = config.ema.decays,
                                .power_sigmas = config.ema.power_sigmas,
                                .machine = machine_of(world, device)};
  TrainingState state{
      .arena = ParameterArena(
          unet_parameters(with_output_channels(config.model, train_set.shape(), config.diffusion.variance_type),
                          train_set.shape()),
          config.ema.decays.size() + config.ema.power_sigmas.size(), config.run.seed, device,
          shard_options(config, world.rank(), world.size())),
      .progress = {},
      .losses = {},
      .loss_history =
          LossHistory(config.objective.timesteps == TimestepSampling::importance ? config.diffusion.timesteps : 0)};
  const auto resumed = resume_newest(paths.checkpoints(), origin, state, world.control());

  std::optional<MetricsLog> metrics;
  if (world.is_root()) {
    discard_snapshots_after(paths.snapshots(), state.progress.step);
    data::write_file_durably(paths.config(), std::string_view(resolved_config));
    metrics.emplace(paths.metrics(), resumed ? resumed->metrics_bytes : 0);
    spdlog::info("{} parameters, {} training images, global batch {} over {} rank{} on {}",
                 state.arena.layout().numel(), train_set.size(), config.train.batch_size, world.size(),
                 world.size() == 1 ? "" : "s", device.str());
    warn_of_other_bits(config, origin.machine, resumed ? resumed->machine : "");
    if (resumed) spdlog::info("going on from {} (step {})", resumed->checkpoint.string(), state.progress.step);
  }
  if (trace && trace->first <= state.progress.step)
    throw RunError(fmt::format("no timeline of step {}: the run is at step {} already; name later steps", trace->first,
                               state.progress.step));
  if (state.progress.step >= config.train.steps)
    return {StopReason::finished, state.progress.step, resumed->checkpoint};

  TrainingLoop loop({.config = config,
                     .origin = origin,
                     .world = world,
                     .train = train_set,
                     .heldout = heldout ? &*heldout : nullptr,
                     .device = device,
                     .compute_stream = compute_stream(device),
                     .trace = trace},
                    state, std::move(metrics));
  return loop.run();
}

}  // namespace perrin::trainer
