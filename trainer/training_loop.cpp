#include "trainer/training_loop.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>
#include <utility>

#include "data/data_error.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/stored_model.hpp"
#include "trainer/deadlines.hpp"
#include "trainer/evaluate/heldout_loss.hpp"
#include "trainer/evaluate/sample_images.hpp"
#include "trainer/gather_texts.hpp"
#include "trainer/images.hpp"
#include "trainer/interchange/grid.hpp"
#include "trainer/interchange/png.hpp"
#include "trainer/optimize/learning_rate.hpp"
#include "trainer/random/keyed_noise.hpp"
#include "trainer/telemetry/operator_scope.hpp"

namespace perrin::trainer {
namespace {

constexpr std::chrono::seconds kTryLastAgain{2};  // between tries of the last checkpoint

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

data::BatchLoaderOptions loader_options(const DataConfig& config, std::optional<TraceRecorder>& trace) {
  data::BatchLoaderOptions options;
  options.threads = static_cast<std::size_t>(config.threads);
  options.images = !config.resident;
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
      step_(in_.config, in_.train.shape(), process_, state.arena, in_.world, in_.world.gradients(),
            in_.config.distributed.overlap),
      trace_(in_.options.trace ? std::optional<TraceRecorder>(std::in_place, paths_.trace(), in_.world, clock_)
                               : std::nullopt),
      resident_(in_.config.data.resident ? std::optional<ResidentImages>(std::in_place, in_.train, in_.device)
                                         : std::nullopt),
      loader_(in_.train, data::SampleOrder(in_.train.size(), in_.config.run.seed),
              slices_from(state.progress.step, state.progress.position, step_.global_batch(), step_.slices()),
              loader_options(in_.config.data, trace_)),
      metrics_(std::move(metrics)),
      writer_(state, step_.shards(), in_.world.control(), in_.incarnation, in_.config.checkpoint),
      schedule_(in_.config.checkpoint),
      spikes_(in_.config.recovery.loss_z_score),
      stragglers_(in_.world.host_names()),
      reported_step_(state.progress.step),
      loader_watch_(in_.config.data) {
  if (in_.world.is_root()) progress_.emplace();
}

std::optional<TrainOutcome> TrainingLoop::run() {
  const Config& config = in_.config;
  if (scores_due()) score();
  while (state_.progress.step < config.train.steps && !leaving()) {
    if (trace_) trace_begins_or_ends();
    step();
    note(writer_.act(votes_));
    if (diverged_) {
      note(writer_.finish());
      return std::nullopt;
    }
    if (due(config.train.log_every)) report();
    if (due(config.train.evaluate_every) && !stopping()) evaluate();
    if (config.ema.snapshot_every > 0 && state_.progress.step % config.ema.snapshot_every == 0) snapshot();
    const bool scoring = scores_due() && !stopping();
    checkpoint_due_ =
        checkpoint_due_ || scoring || schedule_.due_by_step(state_.progress.step) || votes_.any(Vote::checkpoint);
    if (checkpoint_due_ && !skipping()) checkpoint();
    if (due(config.train.sample_every) && !stopping())
      sample();  // after the checkpoint: a picture that fails costs no work
    if (scoring) score();
  }
  if (trace_) trace_begins_or_ends();
  if (last_step() || save_on_stop_) checkpoint_now();
  const StopReason reason = last_step() && !unscored_  ? StopReason::finished
                            : votes_.any(Vote::budget) ? StopReason::time_budget
                                                       : StopReason::notice;
  return TrainOutcome{reason, state_.progress.step,
                      checkpoint_step_
                          ? checkpoint_path(paths_.checkpoints(), {in_.incarnation.number(), *checkpoint_step_})
                          : in_.resumed_from};
}

void TrainingLoop::trace_begins_or_ends() {
  const std::int64_t done = state_.progress.step;
  const bool over = last_step() || leaving();
  if (trace_->running() && (done == in_.options.trace->last || over)) trace_->end({in_.options.trace->first, done});
  if (done + 1 == in_.options.trace->first && !over) trace_->begin();
  if (over && done < in_.options.trace->first && in_.world.is_root())
    spdlog::warn("no timeline: the time was over before step {}", in_.options.trace->first);
}

void TrainingLoop::step() {
  in_.world.enter(comm::Phase::step);
  clock_.begin_step(state_.progress.step + 1);
  const std::uint64_t first = state_.progress.position;
  const bool importance = in_.config.objective.timesteps == TimestepSampling::importance;
  StepLosses losses(step_.global_batch(), /*keep_each=*/importance);
  for (std::size_t i = 0; i < step_.slices().size(); ++i) {
    clock_.enter(Activity::load);
    batch_ = loader_.next(std::move(batch_));
    clock_.enter(Activity::forward);
    step_.backward(images_of(batch_), i, first, state_.loss_history, losses, clock_);
  }
  clock_.enter(Activity::agreement);
  const double own_loss = losses.loss();
  agree(losses);
  last_update_ = step_.update(losses.loss(), state_.progress, clock_);

  if (importance) losses.add_to(state_.loss_history, timesteps_of_batch(first));
  ++state_.progress.step;
  state_.progress.position += static_cast<std::uint64_t>(step_.global_batch());
  if (last_update_.skipped)
    skip(losses.loss(), own_loss);
  else
    accept(losses);
  clock_.leave();
}

SliceImages TrainingLoop::images_of(const data::Batch& batch) const {
  const OperatorScope scope("input");
  SliceImages images{.pixels = resident_ ? resident_->gather(batch.samples)
                                         : to_pixel_batch(batch.images, in_.train.shape(), in_.device),
                     .positions = batch.positions,
                     .labels = labels_of(batch)};
  if (in_.config.data.horizontal_flip)
    images.mirrored =
        keyed_flips({.seed = in_.config.run.seed, .purpose = Purpose::flip}, batch.positions).to(in_.device);
  return images;
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
  std::vector<std::uint64_t> positions(static_cast<std::size_t>(step_.global_batch()));
  std::iota(positions.begin(), positions.end(), first);
  std::vector<std::int64_t> t;
  for (const NoiseLevel& level : step_.level_sampler().draw(positions, first, state_.loss_history).levels)
    t.push_back(level.t);
  return t;
}

Votes TrainingLoop::own_votes() const {
  Votes votes;
  writer_.cast(votes);
  const StopNotice notice = in_.options.notice ? in_.options.notice() : StopNotice::none;
  if (notice == StopNotice::orderly) votes.cast(Vote::stop);
  if (notice == StopNotice::soon) votes.cast(Vote::stop_soon);
  if (!in_.world.is_root()) return votes;
  // Clocks differ: that of rank 0 decides.
  const double budget = in_.config.train.max_minutes * 60;
  if (budget > 0 && seconds_between(started_, Clock::now()) >= budget) votes.cast(Vote::budget);
  if (schedule_.due_by_clock()) votes.cast(Vote::checkpoint);
  if (schedule_.is_quick()) votes.cast(Vote::checkpoint_is_quick);
  return votes;
}

void TrainingLoop::agree(StepLosses& losses) {
  votes_ = own_votes();
  losses.add_up(in_.world.control(), votes_);
  const bool in_order = votes_.any(Vote::stop) || votes_.any(Vote::budget);
  stop_ = in_order || votes_.any(Vote::stop_soon);
  save_on_stop_ = in_order || votes_.any(Vote::checkpoint_is_quick);
}

bool TrainingLoop::interrupted() {
  const std::int64_t asked = in_.options.notice && in_.options.notice() != StopNotice::none ? 1 : 0;
  return in_.world.control().all_reduce_value(asked, comm::ReduceOp::max) > 0;
}

void TrainingLoop::accept(const StepLosses& losses) {
  ++state_.progress.updates;
  losses.add_to(state_.losses);
  skipped_in_a_row_ = 0;
  if (!spikes_.observe(losses.loss())) return;
  diverged_ = true;
  if (in_.world.is_root())
    spdlog::warn(
        "step {}: the loss, {:.5g}, stands more than recovery.loss_z_score = {} deviations above the {} before",
        state_.progress.step, losses.loss(), in_.config.recovery.loss_z_score, LossSpikes::kWindow);
}

void TrainingLoop::skip(double loss, double own_loss) {
  ++skipped_in_a_row_;
  diverged_ = skipped_in_a_row_ >= in_.config.recovery.most_skipped;
  std::string fault;  // what this rank itself has done wrong
  if (!std::isfinite(own_loss))
    fault = "the loss of its images";
  else if (const std::string parameter = step_.reducer().non_finite_gradient(); !parameter.empty())
    fault = "the gradient of " + parameter;
  const std::vector<std::string> faults = gather_texts(in_.world.control(), fault);
  if (!in_.world.is_root()) return;
  std::string where;
  for (std::size_t r = 0; r < faults.size(); ++r)
    if (!faults[r].empty()) where += fmt::format("{}on rank {} {}", where.empty() ? "" : ", ", r, faults[r]);
  spdlog::warn("step {}: {} is not finite (loss {}); weights, Adam and EMA stay as they were", state_.progress.step,
               where.empty() ? "the gradient's sum over the ranks" : where, loss);
}

bool TrainingLoop::last_step() const { return state_.progress.step >= in_.config.train.steps; }

bool TrainingLoop::due(std::int64_t every) const {
  return last_step() || (every > 0 && state_.progress.step % every == 0);
}

std::int64_t TrainingLoop::own_images() const {
  std::int64_t images = 0;
  for (const Slice& slice : step_.slices()) images += slice.count;
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
  const double rate = steps * static_cast<double>(step_.global_batch()) / step_seconds;
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
  const auto measured = evaluate_heldout(predictor(average()), in_.config, process_, *in_.heldout, in_.world.control(),
                                         in_.device, [this] { return interrupted(); });
  if (!measured) return;
  const HeldoutLoss& heldout = *measured;
  heldout_ = {state_.progress.step, heldout.loss};
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
  const auto images = sample_images(predictor(average()), in_.config, in_.train.shape(), in_.world.control(),
                                    in_.device, [this] { return interrupted(); });
  if (!metrics_ || !images) return;
  const auto path = paths_.sample_grid(state_.progress.step);
  progress_->interrupt();
  try {
    write_png(path, make_grid(*images, in_.config.sample.rows, in_.config.sample.columns));
  } catch (const data::DataError& error) {  // a full disk, say: the training is worth more than the picture
    spdlog::warn("no samples of step {}: {}", state_.progress.step, error.what());
    return;
  }
  spdlog::info("samples of {} weights: {} ({:.1f} s)", predictor_name(), path.string(),
               seconds_between(begun, Clock::now()));
}

bool TrainingLoop::scores_due() const {
  return in_.scorer != nullptr && state_.progress.step > 0 && due(in_.config.evaluate.samples_every);
}

void TrainingLoop::score() {
  in_.world.enter(comm::Phase::sampling, kLongWork);
  clock_.enter(Activity::sampling);
  note(writer_.finish());
  const auto begun = Clock::now();
  const at::Tensor flat = average();
  const ScoredWeights weights{predictor_name(), sha256_of(state_.arena.named(flat)), state_.progress.step};
  // A start that goes on from this step may find them scored, and the row cut off with what came after the checkpoint.
  auto report = metrics_ ? in_.scorer->kept(weights) : std::nullopt;
  const bool scored = in_.world.control().all_reduce_value(std::int64_t{report.has_value()}, comm::ReduceOp::max) > 0;
  if (!scored) {
    const Narrator narrate = [this](const std::string& line) {
      progress_->interrupt();
      spdlog::info("{}", line);
    };
    const auto samples = in_.scorer->draw(predictor(flat), weights, in_.world.control(), /*keep_images=*/false, narrate,
                                          [this] { return interrupted(); });
    unscored_ = !samples;
    stop_ = stop_ || unscored_;
    if (!metrics_ || !samples) return;
    try {
      const SampleScores scores = in_.scorer->scores(*samples, Thoroughness::quick);
      const double seconds = seconds_between(begun, Clock::now());
      narrate(fmt::format("{} at step {} with {} weights ({:.1f} s)", summary(scores), weights.step, weights.name,
                          seconds));
      report = in_.scorer->report(scores, weights);
      (*report)["seconds"] = seconds;
      in_.scorer->keep(*report, weights);
    } catch (const std::runtime_error& error) {  // a full disk, say, as for a picture
      narrate(fmt::format("the score of step {} is lost: {}", weights.step, error.what()));
    }
  }
  if (!metrics_ || !report) return;
  nlohmann::json row = {{"kind", "samples"}};
  row.update(*report);
  metrics_->write(row);
}

CheckpointWriter::Order TrainingLoop::order(std::filesystem::path parent) {
  CheckpointWriter::Order order{
      .parent = std::move(parent), .origin = in_.origin, .resumed_from = in_.resumed_from.filename().string()};
  if (heldout_ && heldout_->first == state_.progress.step) order.heldout_loss = heldout_->second;
  if (metrics_) {
    order.metrics_bytes = [this] { return metrics_->bytes(); };
    order.before_publishing = [this] { metrics_->sync(); };
  }
  return order;
}

void TrainingLoop::checkpoint() {
  in_.world.enter(comm::Phase::checkpoint, kLongWork);
  clock_.enter(Activity::checkpoint);
  note(writer_.finish());
  checkpoint_due_ = false;
  if (checkpoint_step_ == state_.progress.step) return;
  schedule_.begun();
  writer_.begin_checkpoint(order(paths_.checkpoints()));
  clock_.leave();
}

void TrainingLoop::snapshot() {
  in_.world.enter(comm::Phase::checkpoint, kLongWork);
  clock_.enter(Activity::snapshot);
  note(writer_.finish());
  writer_.begin_snapshot(order(paths_.snapshots()));
  note(writer_.finish());
  clock_.leave();
}

void TrainingLoop::note(const std::optional<WriteOutcome>& outcome) {
  if (!outcome) return;
  const bool checkpoint = outcome->path.parent_path() == paths_.checkpoints();
  if (checkpoint && outcome->published) checkpoint_step_ = outcome->step;
  if (metrics_) {
    progress_->interrupt();
    if (!outcome->published)
      spdlog::warn("no {} of step {}; training goes on", checkpoint ? "checkpoint" : "snapshot", outcome->step);
    else if (checkpoint)
      metrics_->write({{"kind", "checkpoint"},
                       {"step", outcome->step},
                       {"bytes", outcome->bytes},
                       {"stall_seconds", outcome->stall_seconds},
                       {"seconds", outcome->seconds}});
  }
  if (checkpoint) schedule_.ended(*outcome);
}

void TrainingLoop::checkpoint_now() {
  for (;;) {
    checkpoint();
    note(writer_.finish());
    if (checkpoint_step_ == state_.progress.step) break;
    std::this_thread::sleep_for(kTryLastAgain);
  }
  in_.world.control().barrier().wait(kLongWork);  // no rank leaves before it is published
}

at::Tensor TrainingLoop::average() const { return step_.shards().materialise(state_.arena.ema(0)); }

UNet TrainingLoop::predictor(const at::Tensor& flat) const {
  return UNet(step_.network(), in_.train.shape(), state_.arena.frozen(flat), state_.arena.layout().memory_format());
}

std::string TrainingLoop::predictor_name() const { return fmt::format("EMA {}", in_.config.ema.decays.front()); }

}  // namespace perrin::trainer
