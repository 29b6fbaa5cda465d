#pragma once

#include <c10/core/Device.h>

#include <chrono>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/world.hpp"
#include "data/batch_loader.hpp"
#include "data/dataset.hpp"
#include "trainer/checkpoint/manifest.hpp"
#include "trainer/checkpoint/training_state.hpp"
#include "trainer/config.hpp"
#include "trainer/diffusion/level_sampler.hpp"
#include "trainer/diffusion/objective.hpp"
#include "trainer/diffusion/process.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/optimize/adam_ema.hpp"
#include "trainer/optimize/gradient_reducer.hpp"
#include "trainer/optimize/shard_gather.hpp"
#include "trainer/optimize/slice_plan.hpp"
#include "trainer/run_folder.hpp"
#include "trainer/step_losses.hpp"
#include "trainer/telemetry/activity_clock.hpp"
#include "trainer/telemetry/loader_watch.hpp"
#include "trainer/telemetry/metrics_log.hpp"
#include "trainer/telemetry/progress_line.hpp"
#include "trainer/telemetry/stragglers.hpp"
#include "trainer/telemetry/trace_recorder.hpp"
#include "trainer/train.hpp"

namespace perrin::trainer {

/// The training of one run on one rank: the step of the paper, and what happens between steps.
class TrainingLoop {
 public:
  /// What the loop works with and does not own.
  struct Surroundings {
    const Config& config;
    const CheckpointOrigin& origin;
    comm::World& world;
    const data::Dataset& train;
    const data::Dataset* heldout;  ///< null: no held-out loss
    at::Device device;
    void* compute_stream;  ///< cudaStream_t of the backward pass; null on the CPU
    std::optional<TraceSteps> trace;
  };

  /// @param state at the step to go on from
  /// @param metrics on rank 0
  TrainingLoop(Surroundings surroundings, TrainingState& state, std::optional<MetricsLog> metrics);

  /// Steps until train.steps or the time budget is reached; the last step leaves a checkpoint.
  TrainOutcome run();

 private:
  using Clock = std::chrono::steady_clock;

  void step();
  at::Tensor noise_of(std::span<const std::uint64_t> positions) const;
  at::Tensor images_of(const data::Batch& batch) const;
  /// Labels of a batch as the network trains on them, some of them dropped; undefined for an unconditional model.
  at::Tensor labels_of(const data::Batch& batch) const;
  /// Timesteps of every image of the global batch that begins at `first`.
  std::vector<std::int64_t> timesteps_of_batch(std::uint64_t first) const;
  /// Adds up the ranks' losses and spreads rank 0's decision to stop.
  void agree(StepLosses& losses);
  void accept(const StepLosses& losses);
  void skip(double loss);

  void trace_begins_or_ends();
  bool last_step() const;
  /// True at multiples of `every` (0: none) and at the run's last step.
  bool due(std::int64_t every) const;
  void report();
  /// Of this rank, since the last report.
  std::int64_t own_images() const;
  /// Warns where training waits for its images. @return seconds that it waited since the last report
  double report_loader(double step_seconds);
  /// How the ranks spend their time, for the row of metrics; says which have become slow. Collective.
  nlohmann::json report_ranks();
  void evaluate();
  void sample();
  void checkpoint();
  /// Of the power-function averages, before the checkpoint of the same step.
  void snapshot();
  /// The network over the first EMA; shares its memory, or where it is sharded holds a whole one of its own.
  /// Collective.
  UNet predictor() const;
  std::string predictor_name() const;

  Surroundings in_;
  TrainingState& state_;
  RunPaths paths_;
  DiffusionProcess process_;
  Objective objective_;
  LevelSampler level_sampler_;
  ModelConfig network_;  // with its output channels
  UNet model_;
  SlicePlan plan_;
  std::vector<Slice> slices_;  // of this rank, in each global batch
  GradientReducer reducer_;
  ShardGather shards_;
  AdamEma optimizer_;
  ActivityClock clock_;  // evaluation, samples and checkpoints are not training and do not count as step
  std::optional<TraceRecorder> trace_;
  data::BatchLoader loader_;
  std::optional<MetricsLog> metrics_;     // rank 0
  std::optional<ProgressLine> progress_;  // rank 0

  bool out_of_time_ = false;
  std::int64_t skipped_in_a_row_ = 0;
  UpdateOutcome last_update_;
  Clock::time_point started_ = Clock::now();
  StragglerWatch stragglers_;
  std::int64_t reported_step_;
  data::Batch batch_;  // in use; the loader fills its memory again
  LoaderWatch loader_watch_;
  double reported_stall_ = 0;
  std::uint64_t reported_storage_bytes_ = 0;
};

}  // namespace perrin::trainer
