#include "trainer/training_loop.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/resume.hpp"
#include "trainer/deadlines.hpp"
#include "trainer/evaluate/heldout_loss.hpp"
#include "trainer/evaluate/sample_images.hpp"
#include "trainer/images.hpp"
#include "trainer/interchange/grid.hpp"
#include "trainer/interchange/png.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/optimize/learning_rate.hpp"
#include "trainer/random/keyed_noise.hpp"
#include "trainer/run_error.hpp"
#include "trainer/same_on_all_ranks.hpp"

namespace perrin::trainer {
namespace {

constexpr std::int64_t kMostSkippedInARow = 20;  // non-finite steps; a run that only skips burns its allocation

/// This rank's slices of every global batch from `step` on, as stream positions.
data::SliceSource slices_from(std::int64_t step, std::uint64_t position, std::int64_t global_batch,
                              std::vector<Slice> slices) {
  return data::slices_by_step(static_cast<std::uint64_t>(step), [=](std::uint64_t at) {
    const std::uint64_t first =
        position + (at - static_cast<std::uint64_t>(step)) * static_cast<std::uint64_t>(global_batch);
    std::vector<data::Slice> positions;
    for (const Slice& slice : slices)
      positions.push_back({first + static_cast<std::uint64_t>(slice.offset), static_cast<std::uint64_t>(slice.count)});
    return positions;
  });
}

/// Mirrors the images whose coin, keyed by position, says so.
at::Tensor flip_some(const at::Tensor& x_0, std::uint64_t seed, std::span<const std::uint64_t> positions) {
  const at::Tensor flips = keyed_flips({.seed = seed, .purpose = Purpose::flip}, positions).to(x_0.device());
  return at::where(flips.view({-1, 1, 1, 1}), x_0.flip({3}), x_0);
}

data::BatchLoaderOptions loader_options(const DataConfig& config, std::optional<TraceRecorder>& trace) {
  data::BatchLoaderOptions options;
  options.threads = static_cast<std::size_t>(config.threads);
  if (trace)
    options.on_read = [&trace](const auto& slice, auto begun, auto ended) { trace->batch_read(slice, begun, ended); };
  return options;
}

/// Of one figure of every rank.
nlohmann::json spread(const std::vector<RankTimes>& times, double RankTimes::*figure) {
  std::vector<double> values;
  for (const RankTimes& rank : times) values.push_back(rank.*figure);
  std::sort(values.begin(), values.end());
  return {{"min", values.front()}, {"median", values[values.size() / 2]}, {"max", values.back()}};
}

double seconds_between(std::chrono::steady_clock::time_point from, std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

TrainingLoop::TrainingLoop(Surroundings surroundings, TrainingState& state, std::optional<MetricsLog> metrics)
    : in_(surroundings),
      state_(state),
      paths_(in_.config.run.directory),
      process_(NoiseSchedule(in_.config.diffusion), in_.device),
      objective_(in_.config, process_),
      level_sampler_(in_.config, process_.schedule()),
      network_(with_output_channels(in_.config.model, in_.train.shape(), in_.config.diffusion.variance_type)),
      model_(network_, in_.train.shape(), state.arena.trainable(), state.arena.layout().memory_format()),
      plan_(in_.config, in_.world.size()),
      slices_(plan_.slices_of(in_.world.rank())),
      reducer_(state.arena, in_.world.gradients(), in_.world.control(), in_.compute_stream,
               in_.config.distributed.reduction, in_.config.distributed.wire, in_.config.distributed.overlap),
      shards_(state.arena, in_.world.gradients(), in_.compute_stream),
      optimizer_(in_.config.optimizer, in_.config.ema, in_.config.train.steps),
      trace_(in_.trace ? std::optional<TraceRecorder>(std::in_place, paths_.trace(), in_.world, clock_) : std::nullopt),
      loader_(in_.train, data::SampleOrder(in_.train.size(), in_.config.run.seed),
              slices_from(state.progress.step, state.progress.position, plan_.global_batch(), slices_),
              loader_options(in_.config.data, trace_)),
      metrics_(std::move(metrics)),
      stragglers_(in_.world.host_names()),
      reported_step_(state.progress.step),
      loader_watch_(in_.config.data) {
  if (in_.world.is_root()) progress_.emplace();
}

TrainOutcome TrainingLoop::run() {
  const Config& config = in_.config;
  while (state_.progress.step < config.train.steps && !out_of_time_) {
    if (trace_) trace_begins_or_ends();
    step();
    if (due(config.train.log_every)) report();
    if (due(config.train.evaluate_every)) evaluate();
    if (config.ema.snapshot_every > 0 && state_.progress.step % config.ema.snapshot_every == 0) snapshot();
    if (due(config.checkpoint.every) || out_of_time_) checkpoint();
    if (due(config.train.sample_every)) sample();  // after the checkpoint: a picture that fails costs no work
  }
  if (trace_) trace_begins_or_ends();
  return {last_step() ? StopReason::finished : StopReason::time_budget, state_.progress.step,
          checkpoint_path(paths_.checkpoints(), state_.progress.step)};
}

void TrainingLoop::trace_begins_or_ends() {
  const std::int64_t done = state_.progress.step;
  const bool over = last_step() || out_of_time_;
  if (trace_->running() && (done == in_.trace->last || over)) trace_->end({in_.trace->first, done});
  if (done + 1 == in_.trace->first && !over) trace_->begin();
  if (over && done < in_.trace->first && in_.world.is_root())
    spdlog::warn("no timeline: the time was over before step {}", in_.trace->first);
}

void TrainingLoop::step() {
  in_.world.enter(comm::Phase::step);
  clock_.begin_step(state_.progress.step + 1);
  const std::uint64_t first = state_.progress.position;
  const bool importance = in_.config.objective.timesteps == TimestepSampling::importance;
  StepLosses losses(plan_.global_batch(), /*keep_each=*/importance);
  for (std::size_t i = 0; i < slices_.size(); ++i) {
    clock_.enter(Activity::load);
    batch_ = loader_.next(std::move(batch_));
    const data::Batch& batch = batch_;
    clock_.enter(Activity::forward);
    const LevelDraw draw = level_sampler_.draw(batch.positions, first, state_.loss_history);
    const Network network = [&, labels = labels_of(batch)](const at::Tensor& x, const at::Tensor& condition) {
      return model_(x, condition,
                    {.positions = batch.positions, .seed = in_.config.run.seed, .training = true, .labels = labels});
    };
    const ObjectiveTerms terms = objective_.terms(network, images_of(batch), noise_of(batch.positions), draw.levels);
    const at::Tensor weights = per_image(draw.weights, terms.loss).view({-1});
    const at::Tensor loss = (weights * terms.loss).sum() / plan_.global_batch();
    clock_.enter(Activity::backward);
    reducer_.backward(loss, i, slices_.size());  // last: buckets leave
    clock_.enter(Activity::losses);
    losses.add(terms, draw, slices_[i].offset);
  }
  clock_.enter(Activity::agreement);
  agree(losses);
  clock_.enter(Activity::buckets);
  reducer_.finish();
  // A loss that is not finite has no gradient to speak of: the update is skipped as for one that is not finite itself.
  const double norm = std::isfinite(losses.loss()) ? gradient_norm(state_.arena, in_.world.control()) : NAN;
  clock_.enter(Activity::optimizer);
  last_update_ =
      optimizer_.update(state_.arena, norm, state_.progress.step, state_.progress.updates,  // clip, Adam, EMA
                        [&](std::size_t segment) { shards_.send_weights(segment); });
  if (state_.arena.plan().sharded()) clock_.enter(Activity::buckets);
  shards_.finish();

  if (importance) losses.add_to(state_.loss_history, timesteps_of_batch(first));
  ++state_.progress.step;
  state_.progress.position += static_cast<std::uint64_t>(plan_.global_batch());
  if (last_update_.skipped)
    skip(losses.loss());
  else
    accept(losses);
  clock_.leave();
}

at::Tensor TrainingLoop::noise_of(std::span<const std::uint64_t> positions) const {
  const data::ImageShape& shape = in_.train.shape();
  return keyed_normal({.seed = in_.config.run.seed, .purpose = Purpose::noise}, positions,
                      {shape.channels, shape.height, shape.width})
      .to(in_.device);
}

at::Tensor TrainingLoop::images_of(const data::Batch& batch) const {
  const at::Tensor x_0 = to_model_range(batch.images, in_.train.shape(), in_.device);
  return in_.config.data.horizontal_flip ? flip_some(x_0, in_.config.run.seed, batch.positions) : x_0;
}

at::Tensor TrainingLoop::labels_of(const data::Batch& batch) const {
  const ModelConfig& model = in_.config.model;
  if (model.label_dropout == 0) return to_labels(batch.labels, model, in_.device);
  std::vector<std::int32_t> labels = batch.labels;
  const Stream stream{.seed = in_.config.run.seed, .purpose = Purpose::label_dropout};
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (keyed_uniform(stream, batch.positions[i]) < model.label_dropout) labels[i] = -1;
  return to_labels(labels, model, in_.device);
}

std::vector<std::int64_t> TrainingLoop::timesteps_of_batch(std::uint64_t first) const {
  std::vector<std::uint64_t> positions(static_cast<std::size_t>(plan_.global_batch()));
  std::iota(positions.begin(), positions.end(), first);
  std::vector<std::int64_t> t;
  for (const NoiseLevel& level : level_sampler_.draw(positions, first, state_.loss_history).levels)
    t.push_back(level.t);
  return t;
}

void TrainingLoop::agree(StepLosses& losses) {
  // The clock of rank 0 alone decides, and all learn of it in the same step.
  const double budget = in_.config.train.max_minutes * 60;
  const bool stop = in_.world.is_root() && budget > 0 && seconds_between(started_, Clock::now()) >= budget;
  if (stop) losses.request_stop();
  losses.add_up(in_.world.control());
  out_of_time_ = losses.stop_requested();
}

void TrainingLoop::accept(const StepLosses& losses) {
  ++state_.progress.updates;
  losses.add_to(state_.losses);
  skipped_in_a_row_ = 0;
}

void TrainingLoop::skip(double loss) {
  ++skipped_in_a_row_;
  if (in_.world.is_root())
    spdlog::warn("step {}: loss or gradient is not finite (loss {}); weights, Adam and EMA stay as they were",
                 state_.progress.step, loss);
  if (skipped_in_a_row_ >= kMostSkippedInARow)
    throw RunError(
        fmt::format("loss or gradient was not finite in {} steps in a row up to step {}; check the data, or begin a "
                    "run with a lower "
                    "optimizer.lr in another run.directory",
                    skipped_in_a_row_, state_.progress.step));
}

bool TrainingLoop::last_step() const { return state_.progress.step >= in_.config.train.steps; }

bool TrainingLoop::due(std::int64_t every) const {
  return last_step() || (every > 0 && state_.progress.step % every == 0);
}

std::int64_t TrainingLoop::own_images() const {
  std::int64_t images = 0;
  for (const Slice& slice : slices_) images += slice.count;
  return images * (state_.progress.step - reported_step_);
}

double TrainingLoop::report_loader(double step_seconds) {
  const double stall_before = std::exchange(reported_stall_, loader_.stall_time().count());
  const std::uint64_t storage_before = std::exchange(reported_storage_bytes_, loader_.storage_bytes());
  const LoaderWindow window{
      .seconds = step_seconds,
      .stall_seconds = reported_stall_ - stall_before,
      .image_bytes = static_cast<std::uint64_t>(own_images()) * in_.train.shape().bytes(),
      .storage_bytes = reported_storage_bytes_ - storage_before,
  };
  if (const std::string advice = loader_watch_.observe(window); !advice.empty()) {
    if (progress_) progress_->interrupt();
    spdlog::warn("{}", advice);
  }
  return window.stall_seconds;
}

nlohmann::json TrainingLoop::report_ranks() {
  const std::int64_t steps = state_.progress.step - reported_step_;
  const std::vector<RankTimes> times =
      gather_times(in_.world.control(), times_of(clock_, static_cast<double>(own_images())));
  if (!metrics_) return {};
  for (const std::string& sentence : stragglers_.observe(times, steps)) {
    progress_->interrupt();
    spdlog::warn("{}", sentence);
  }
  return {{"rank_load_seconds", spread(times, &RankTimes::load)},
          {"rank_compute_seconds", spread(times, &RankTimes::compute)},
          {"rank_wait_seconds", spread(times, &RankTimes::wait)},
          {"slow_ranks", stragglers_.slow_ranks()}};
}

void TrainingLoop::report() {
  clock_.enter(Activity::report);
  const nlohmann::json ranks = report_ranks();
  const double elapsed = seconds_between(started_, Clock::now());
  const double steps = static_cast<double>(state_.progress.step - reported_step_);
  const double step_seconds = clock_.step_seconds();
  const double rate = steps * static_cast<double>(plan_.global_batch()) / step_seconds;
  const double stall = report_loader(step_seconds);
  const LossWindow& window = state_.losses;
  const auto mean = [&](double sum) { return window.count > 0 ? sum / static_cast<double>(window.count) : NAN; };
  const double loss = mean(window.sum);
  const double decay = ema_decay(in_.config.ema.decays.front(), in_.config.ema.warmup, state_.progress.updates);
  if (metrics_) {
    nlohmann::json row = {{"kind", "train"},
                          {"step", state_.progress.step},
                          {"images", state_.progress.position},
                          {"loss", loss},
                          {"loss_simple", mean(window.simple)},
                          {"lr", last_update_.lr},
                          {"gradient_norm", last_update_.gradient_norm},
                          {"ema_decay", decay},
                          {"skipped", state_.progress.step - state_.progress.updates},
                          {"images_per_second", rate},
                          {"loader_stall_seconds", stall},
                          {"seconds", elapsed}};
    row.update(ranks);
    if (in_.config.objective.loss != LossType::simple) row["loss_vlb"] = mean(window.bound);
    for (std::size_t q = 0; q < LossWindow::kQuartiles; ++q)  // null where no noise level fell into a quartile
      row[fmt::format("loss_q{}", q)] = window.quartile_sums[q] / window.quartile_weights[q];
    metrics_->write(row);
    double left = static_cast<double>(in_.config.train.steps - state_.progress.step) / steps * step_seconds;
    if (in_.config.train.max_minutes > 0) left = std::min(left, in_.config.train.max_minutes * 60 - elapsed);
    progress_->show(
        format_progress({state_.progress.step, in_.config.train.steps, loss, rate, 1.0 / (1.0 - decay), left}));
  }
  state_.losses = {};
  clock_.restart();
  reported_step_ = state_.progress.step;
  clock_.leave();
}

void TrainingLoop::evaluate() {
  if (in_.heldout == nullptr) return;
  in_.world.enter(comm::Phase::evaluation, kLongWork);
  clock_.enter(Activity::evaluation);
  const auto begun = Clock::now();
  const HeldoutLoss heldout =
      evaluate_heldout(predictor(), in_.config, process_, *in_.heldout, in_.world.control(), in_.device);
  if (!metrics_) return;
  nlohmann::json row = {{"kind", "heldout"},
                        {"step", state_.progress.step},
                        {"loss", heldout.loss},
                        {"images", heldout.images},
                        {"weights", predictor_name()}};
  if (heldout.bound_estimate) row["vlb_estimate"] = *heldout.bound_estimate;
  metrics_->write(row);
  progress_->interrupt();
  spdlog::info("held-out loss {:.5f}{} over {} images with {} weights at step {} ({:.1f} s)", heldout.loss,
               heldout.bound_estimate ? fmt::format(", about {:.3f} bits/dim,", *heldout.bound_estimate) : "",
               heldout.images, predictor_name(), state_.progress.step, seconds_between(begun, Clock::now()));
}

void TrainingLoop::sample() {
  in_.world.enter(comm::Phase::sampling, kLongWork);
  clock_.enter(Activity::sampling);
  const auto begun = Clock::now();
  const at::Tensor images = sample_images(predictor(), in_.config, in_.train.shape(), in_.world.control(), in_.device);
  if (!metrics_) return;
  const auto path = paths_.sample_grid(state_.progress.step);
  write_png(path, make_grid(images, in_.config.sample.rows, in_.config.sample.columns));
  progress_->interrupt();
  spdlog::info("samples of {} weights: {} ({:.1f} s)", predictor_name(), path.string(),
               seconds_between(begun, Clock::now()));
}

void TrainingLoop::checkpoint() {
  in_.world.enter(comm::Phase::checkpoint, kLongWork);
  clock_.enter(Activity::checkpoint);
  require_same_on_all_ranks(
      in_.world.control(), hash_of_replicas(state_), "weights, Adam or EMA",
      "the ranks have drifted apart, by a fault of memory, processor or network; start again from the last checkpoint");
  save_checkpoint(paths_.checkpoints(), state_, shards_, in_.origin, metrics_ ? metrics_->sync() : 0);
  if (in_.world.is_root()) remove_old_checkpoints(paths_.checkpoints(), in_.config.checkpoint.keep);
  // No rank leaves, and the run does not end, before the checkpoint is published; writing may take longer than a
  // collective.
  in_.world.control().barrier().wait(kLongWork);
}

void TrainingLoop::snapshot() {
  in_.world.enter(comm::Phase::checkpoint, kLongWork);
  clock_.enter(Activity::snapshot);
  save_snapshot(paths_.snapshots(), state_, shards_, in_.origin);
  in_.world.control().barrier().wait(kLongWork);  // writing may take longer than a collective
}

UNet TrainingLoop::predictor() const {
  return UNet(network_, in_.train.shape(), state_.arena.frozen(shards_.materialise(state_.arena.ema(0))),
              state_.arena.layout().memory_format());
}

std::string TrainingLoop::predictor_name() const { return fmt::format("EMA {}", in_.config.ema.decays.front()); }

}  // namespace perrin::trainer
