#include "trainer/train.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "data/dataset.hpp"
#include "data/file.hpp"
#include "data/sample_order.hpp"
#include "data/sha256.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/incarnation.hpp"
#include "trainer/checkpoint/resume.hpp"
#include "trainer/evaluate/sample_scorer.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/precision.hpp"
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
std::string machine_of(comm::World& world, at::Device device, at::ScalarType compute) {
  const std::string own =
      (device.is_cpu() ? fmt::format("{} thread{} a rank, {}", at::get_num_threads(),
                                     at::get_num_threads() == 1 ? "" : "s", at::get_cpu_capability())
                       : std::string("cuda")) +
      (compute == at::kFloat ? "" : ", bf16");
  const std::string hash = data::sha256_hex(own);
  const auto word = static_cast<std::int64_t>(std::stoull(hash.substr(0, 15), nullptr, 16));
  const bool same = world.control().all_reduce_value(word, comm::ReduceOp::max) ==
                    world.control().all_reduce_value(word, comm::ReduceOp::min);
  return same ? own : "mixed";
}

/// The compute type of a run: bfloat16 only if every rank would have it.
at::ScalarType common_compute_type(Precision precision, comm::World& world, at::Device device) {
  const std::int64_t own = compute_type(precision, device) == at::kBFloat16 ? 1 : 0;
  return world.control().all_reduce_value(own, comm::ReduceOp::min) == 1 ? at::kBFloat16 : at::kFloat;
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

/// Weights as initialized, at the beginning of the stream.
TrainingState initial_state(const Config& config, const data::ImageShape& shape, comm::World& world, at::Device device,
                            at::ScalarType compute) {
  return {.arena = ParameterArena(
              unet_parameters(with_output_channels(config.model, shape, config.diffusion.variance_type), shape),
              config.ema.decays.size() + config.ema.power_sigmas.size(), config.run.seed, device,
              shard_options(config, world.rank(), world.size()), compute),
          .progress = {},
          .losses = {},
          .loss_history =
              LossHistory(config.objective.timesteps == TimestepSampling::importance ? config.diffusion.timesteps : 0)};
}

/// A run whose numbers went wrong goes on from an earlier checkpoint, and leaves out the images up to `position`.
/// @throws RunDiverged once that has happened recovery.most_rollbacks times
void leave_out_stretch(const Config& config, const Progress& diverged, Progress& progress) {
  if (diverged.rollbacks >= config.recovery.most_rollbacks)
    throw RunDiverged(fmt::format(
        "the run's numbers went wrong at step {}, after {} return{} to an earlier checkpoint; check the data, or begin "
        "a run with a lower optimizer.lr in another run.directory",
        diverged.step, diverged.rollbacks, diverged.rollbacks == 1 ? "" : "s"));
  progress.position = diverged.position;
  progress.rollbacks = diverged.rollbacks + 1;
}

/// Batch scripts look for this mark. A start that was killed between the last checkpoint and the mark is made good by
/// the next one.
void mark_completed(const RunPaths& paths, std::int64_t step) {
  if (!std::filesystem::exists(paths.completed()))
    data::write_file_durably(paths.completed(), std::string_view(fmt::format("step {}\n", step)));
}

}  // namespace

TrainOutcome train(const Config& config, const std::string& resolved_config, comm::World& world, at::Device device,
                   const TrainOptions& options) {
  const RunPaths paths(config.run.directory);
  require_same_on_all_ranks(world.control(), resolved_config, "the resolved configurations");

  const data::Dataset train_set(
      config.data.train, {.read = config.data.read, .verify = config.data.verify, .warm_up = config.data.warm_up});
  const auto heldout = open_heldout(config.data, train_set.shape());
  require_same_on_all_ranks(world.control(), train_set.fingerprint() + (heldout ? heldout->fingerprint() : ""),
                            "the datasets");

  std::optional<SampleScorer> scorer;
  if (config.evaluate.samples > 0)
    scorer.emplace(config, resolved_config, train_set.shape(), paths.evaluation(), device);

  const at::ScalarType compute = common_compute_type(config.train.precision, world, device);
  const CheckpointOrigin origin{.config = resolved_config,
                                .dataset_fingerprint = train_set.fingerprint(),
                                .image_shape = train_set.shape(),
                                .sample_order = std::string(data::SampleOrder::kAlgorithm),
                                .ema_decays = config.ema.decays,
                                .power_sigmas = config.ema.power_sigmas,
                                .machine = machine_of(world, device, compute),
                                .program = options.program};
  Incarnation incarnation = Incarnation::begin(paths, world.control());
  std::optional<Progress> diverged;
  for (;;) {
    TrainingState state = initial_state(config, train_set.shape(), world, device, compute);
    const auto resumed = resume_newest(paths.checkpoints(), origin, state, world.control(),
                                       diverged ? ResumeReason::divergence : ResumeReason::start);
    state.arena.refresh_copy();
    if (diverged) {
      leave_out_stretch(config, *diverged, state.progress);
      incarnation.advance(world.control());
    }
    const bool unscored = scorer && !std::filesystem::exists(paths.completed());  // stopped after the last step
    if (state.progress.step >= config.train.steps && !unscored) {
      if (world.is_root()) mark_completed(paths, state.progress.step);
      return {StopReason::finished, state.progress.step, resumed->checkpoint};
    }
    std::optional<MetricsLog> metrics;
    if (world.is_root()) {
      std::filesystem::remove(paths.completed());
      discard_snapshots_after(paths.snapshots(), state.progress.step);
      remove_unfinished(paths.checkpoints());  // on a full disk they would take the place of the next one
      data::write_file_durably(paths.config(), std::string_view(resolved_config));
      metrics.emplace(paths.metrics(), resumed ? resumed->metrics_bytes : 0);
      if (!diverged)
        spdlog::info("{} parameters, {} training images, global batch {} over {} rank{} on {} in {}",
                     state.arena.layout().numel(), train_set.size(), config.train.batch_size, world.size(),
                     world.size() == 1 ? "" : "s", device.str(), chosen_type(config.train.precision, compute, device));
      if (!diverged && compute == at::kBFloat16 && !multiplies_bfloat16(device))
        spdlog::warn(
            "train.precision is bf16, and {} has no instructions for it, so this run is slower than in fp32; "
            "--train.precision=auto takes bf16 only where it is faster",
            device.str());
      warn_of_other_bits(config, origin.machine, resumed ? resumed->machine : "");
      if (resumed && !diverged)
        spdlog::info("going on from {} (step {})", resumed->checkpoint.string(), state.progress.step);
      if (diverged) {
        spdlog::warn("back from step {} to step {}; the images since are left out (return {} of {})", diverged->step,
                     state.progress.step, state.progress.rollbacks, config.recovery.most_rollbacks);
        metrics->write({{"kind", "rollback"},
                        {"step", state.progress.step},
                        {"from_step", diverged->step},
                        {"position", state.progress.position}});
      }
    }
    TrainOptions loop_options = options;
    if (options.trace && options.trace->first <= state.progress.step) {
      if (!diverged)
        throw RunError(fmt::format("no timeline of step {}: the run is at step {} already; name later steps",
                                   options.trace->first, state.progress.step));
      loop_options.trace.reset();  // its steps are over, and a return does not end the run
    }
    TrainingLoop loop({.config = config,
                       .origin = origin,
                       .world = world,
                       .train = train_set,
                       .heldout = heldout ? &*heldout : nullptr,
                       .scorer = scorer ? &*scorer : nullptr,
                       .device = device,
                       .options = loop_options,
                       .incarnation = incarnation,
                       .resumed_from = resumed ? resumed->checkpoint : ""},
                      state, std::move(metrics));
    if (diverged) loop.checkpoint_now();  // or a death now would go on from the branch that was left
    if (const auto outcome = loop.run()) {
      if (world.is_root() && outcome->reason == StopReason::finished) mark_completed(paths, outcome->step);
      return *outcome;
    }
    diverged = state.progress;
  }
}

}  // namespace perrin::trainer
