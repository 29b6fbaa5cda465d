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
#include "trainer/checkpoint/checkpoint_schedule.hpp"
#include "trainer/checkpoint/checkpoint_writer.hpp"
#include "trainer/checkpoint/incarnation.hpp"
#include "trainer/checkpoint/manifest.hpp"
#include "trainer/checkpoint/training_state.hpp"
#include "trainer/config.hpp"
#include "trainer/diffusion/process.hpp"
#include "trainer/evaluate/sample_scorer.hpp"
#include "trainer/loss_spikes.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/resident_images.hpp"
#include "trainer/run_folder.hpp"
#include "trainer/step_losses.hpp"
#include "trainer/telemetry/activity_clock.hpp"
#include "trainer/telemetry/loader_watch.hpp"
#include "trainer/telemetry/metrics_log.hpp"
#include "trainer/telemetry/progress_line.hpp"
#include "trainer/telemetry/stragglers.hpp"
#include "trainer/telemetry/trace_recorder.hpp"
#include "trainer/train.hpp"
#include "trainer/training_step.hpp"
#include "trainer/votes.hpp"

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
    SampleScorer* scorer;          ///< null: samples are not scored
    at::Device device;
    const TrainOptions& options;
    const Incarnation& incarnation;
    std::filesystem::path resumed_from;  ///< empty: the run begins
  };

  /// @param state at the step to go on from
  /// @param metrics on rank 0
  TrainingLoop(Surroundings surroundings, TrainingState& state, std::optional<MetricsLog> metrics);

  /// Steps until train.steps or the time budget is reached or the outside asks to stop; a checkpoint is left behind.
  /// @return nullopt once the numbers have gone wrong: state and checkpoints are to be brought back
  std::optional<TrainOutcome> run();
  /// Leaves a checkpoint at the present step, whatever the schedule says, and waits for it.
  void checkpoint_now();

 private:
  using Clock = std::chrono::steady_clock;

  void step();
  SliceImages images_of(const data::Batch& batch) const;
  /// Labels of a batch as the network trains on them, some of them dropped; undefined for an unconditional model.
  at::Tensor labels_of(const data::Batch& batch) const;
  /// Timesteps of every image of the global batch that begins at `first`.
  std::vector<std::int64_t> timesteps_of_batch(std::uint64_t first) const;
  /// Adds up the ranks' losses, and takes the decisions for which they vote.
  void agree(StepLosses& losses);
  Votes own_votes() const;
  void accept(const StepLosses& losses);
  /// @param own_loss of this rank's images
  void skip(double loss, double own_loss);
  /// Whether a rank has been asked to stop. Collective.
  bool interrupted();

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
  bool scores_due() const;
  /// Of samples, after the checkpoint of the step: a start that was stopped or killed meanwhile goes on with them.
  void score();
  void checkpoint();
  /// Of the power-function averages, before the checkpoint of the same step: a resume from there would not come by here
  /// again.
  void snapshot();
  CheckpointWriter::Order order(std::filesystem::path parent);
  void note(const std::optional<WriteOutcome>& outcome);
  bool stopping() const { return stop_ && !last_step(); }
  /// The last updates were skipped. What the weights are now may be why: they must not become the newest checkpoint.
  bool skipping() const { return skipped_in_a_row_ > 0; }
  /// Asked to stop, at a step that may be kept or need not be.
  bool leaving() const { return stop_ && !(save_on_stop_ && skipping()); }
  /// The first EMA, [layout.size()]; shares its memory, or where it is sharded is a whole one of its own. Collective.
  at::Tensor average() const;
  UNet predictor(const at::Tensor& flat) const;
  std::string predictor_name() const;

  Surroundings in_;
  TrainingState& state_;
  RunPaths paths_;
  DiffusionProcess process_;
  TrainingStep step_;
  ActivityClock clock_;  // evaluation, samples and checkpoints are not training and do not count as step
  std::optional<TraceRecorder> trace_;
  std::optional<ResidentImages> resident_;
  data::BatchLoader loader_;
  std::optional<MetricsLog> metrics_;     // rank 0
  std::optional<ProgressLine> progress_;  // rank 0

  CheckpointWriter writer_;
  CheckpointSchedule schedule_;
  std::optional<std::int64_t> checkpoint_step_;             // of the newest one of this start
  std::optional<std::pair<std::int64_t, double>> heldout_;  // step and loss

  Votes votes_;               // of all ranks, on the step that is over
  bool stop_ = false;         // after this step
  bool save_on_stop_ = true;  // false: there is no time for it
  bool unscored_ = false;     // stopped while samples were scored
  bool diverged_ = false;
  bool checkpoint_due_ = false;  // as soon as an update is not skipped
  std::int64_t skipped_in_a_row_ = 0;
  LossSpikes spikes_;
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
