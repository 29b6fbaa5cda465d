#include "trainer/train.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string_view>

#include "comm/flight_report.hpp"
#include "data/data_error.hpp"
#include "data/manifest.hpp"
#include "launch/commands/command.hpp"
#include "launch/commands/dry_run.hpp"
#include "launch/commands/trace_option.hpp"
#include "launch/config/check.hpp"
#include "launch/config/key_table.hpp"
#include "launch/config/nearest_name.hpp"
#include "launch/config/resolved.hpp"
#include "launch/config/resume.hpp"
#include "launch/device.hpp"
#include "launch/logging.hpp"
#include "launch/signals.hpp"
#include "launch/usage_error.hpp"
#include "launch/versions.hpp"
#include "launch/world_options.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/manifest.hpp"
#include "trainer/diffusion/schedule.hpp"
#include "trainer/estimate.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::launch {
namespace {

constexpr double kLittleSignal = 0.01;  // of alphas_cumprod at the last timestep; the linear schedule of DDPM has 4e-5

struct TrainArguments {
  std::filesystem::path config;
  std::vector<Override> overrides;
  bool dry_run = false;
  std::string trace;
};

/// Everything that can be refused by looking, before a rank waits for another or a file is made.
class Preflight {
 public:
  Preflight(const TrainArguments& arguments, int ranks)
      : file_(arguments.config.string()),
        overrides_(arguments.overrides),
        config_(read_config(arguments.config, arguments.overrides)),
        trace_(read_trace_steps(arguments.trace, config_.train.steps)) {
    check_ranks(config_, ranks, places());
    compare_with_stored_run();
    look_at_datasets();
    check_schedule();
    warning_ = warning_about_schedule();
    estimate_ = estimate_run(ranks);
    check_attention_resolutions(config_.model, manifest_.shape.height, place_of("model.attention_resolutions"));
    require_writable_folder(config_.run.directory);
  }

  const trainer::Config& config() const { return config_; }
  const std::optional<trainer::TraceSteps>& trace() const { return trace_; }
  /// Where the value of a key is from: the command line, or the file.
  std::string place_of(std::string_view key) const {
    const auto names_key = [&](const Override& given) { return given.name.starts_with(key); };
    return std::any_of(overrides_.begin(), overrides_.end(), names_key) ? "command line" : file_;
  }
  PlaceOf places() const {
    return [this](std::string_view key) { return place_of(key); };
  }
  /// Of what will run, but perhaps not as it was meant; empty: nothing.
  const std::string& warning() const { return warning_; }
  std::string report(int ranks) const {
    return dry_run_report(config_, estimate_, manifest_.n, manifest_.shape, ranks) +
           (warning_.empty() ? "" : "# warning: " + warning_ + "\n");
  }

 private:
  /// A run that has a checkpoint goes on, and only some keys may have changed; one without has nothing to lose.
  void compare_with_stored_run() const {
    for (const auto& folder : trainer::list_checkpoints(trainer::RunPaths(config_.run.directory).checkpoints())) {
      try {
        const trainer::CheckpointManifest manifest = trainer::read_manifest(folder);
        refuse_changes_on_resume(read_config_text(manifest.origin.config, folder.string(), {}), config_, folder);
        return;
      } catch (const trainer::DamagedCheckpoint&) {
        continue;  // the resume names it and takes the one before it
      }
    }
  }

  void look_at_datasets() {
    if (config_.data.train.empty()) {
      throw ConfigError(
          file_, "data.train",
          "'data.train' is empty: name a dataset folder made by `perrin prepare`, here or with --data.train=DIR");
    }
    manifest_ = data::read_manifest(config_.data.train);
    if (manifest_.shape.channels != 1 && manifest_.shape.channels != 3) {
      throw data::DataError(
          config_.data.train,
          fmt::format("has images of {} channels; sample grids are drawn of 1 or 3", manifest_.shape.channels));
    }
    check_classes(config_.model, manifest_, config_.data.train, place_of("model.num_classes"));
    if (config_.data.heldout.empty()) return;
    const data::Manifest heldout = data::read_manifest(config_.data.heldout);
    if (heldout.shape != manifest_.shape) {
      throw data::DataError(config_.data.heldout, "has images of another shape than " + config_.data.train +
                                                      "; prepare both in the same way");
    }
    check_classes(config_.model, heldout, config_.data.heldout, place_of("model.num_classes"));
  }

  /// What sampling cannot know of: an image that the noisiest timestep still shows.
  std::string warning_about_schedule() const {
    const double left = trainer::NoiseSchedule(config_.diffusion).alphas_cumprod().back();
    if (left < kLittleSignal || config_.diffusion.prediction == trainer::PredictionType::edm) return "";
    return fmt::format(
        "x_T keeps {:.2g} of the image's variance (alphas_cumprod at the last of {} timesteps), but sampling starts "
        "from "
        "pure noise; raise diffusion.beta_end or diffusion.timesteps, or set diffusion.zero_terminal_snr with "
        "prediction v or x0",
        left, config_.diffusion.timesteps);
  }

  void check_schedule() const {
    try {
      const trainer::NoiseSchedule checked(config_.diffusion);
    } catch (const std::invalid_argument& error) {
      throw ConfigError(place_of("diffusion."), "diffusion", error.what());
    }
  }

  trainer::Estimate estimate_run(int ranks) const {
    try {
      return trainer::estimate(config_, manifest_.shape, ranks);
    } catch (const std::invalid_argument& error) {  // the model says which of its keys does not suit these images
      throw ConfigError(place_of("model."), "model", error.what());
    }
  }

  std::string file_;
  std::vector<Override> overrides_;
  trainer::Config config_;
  std::optional<trainer::TraceSteps> trace_;
  data::Manifest manifest_;
  trainer::Estimate estimate_;
  std::string warning_;
};

std::string_view name_of(trainer::StopReason reason) {
  switch (reason) {
    case trainer::StopReason::finished:
      return "finished";
    case trainer::StopReason::time_budget:
      return "train.max_minutes are over";
    case trainer::StopReason::notice:
      return "stopped by a signal";
  }
  return "";
}

/// A start that a launcher repeats may find ranks of the one before that have not yet noticed its end: those leave when
/// a collective of theirs misses its deadline.
std::chrono::milliseconds patience_with(const trainer::Config& config) {
  for (const char* variable : {"SLURM_RESTART_COUNT", "PERRIN_RESTART_COUNT"})
    if (const char* text = std::getenv(variable); text != nullptr && std::string_view(text) != "0" && *text != '\0')
      return std::chrono::milliseconds(static_cast<std::int64_t>(2000 * config.distributed.timeout_seconds));
  return std::chrono::milliseconds(0);
}

/// Records the collectives of this start in the run folder, after a word on those of the last one. Collective.
void record_flight(const std::filesystem::path& folder, comm::World& world) {
  if (world.is_root()) {
    const auto last = comm::merge_flight(folder);
    if (last && last->ended_badly())
      spdlog::warn("the last start of this run did not end in order: {}", last->summary());
  }
  const std::string refusal = world.record_flight_in(folder);
  if (!refusal.empty()) spdlog::warn("the collectives of this rank are not recorded: {}", refusal);
}

ExitCode train(const TrainArguments& arguments, Session& session) {
  if (!arguments.dry_run) note_signals(session.size() > 1);
  const Preflight preflight(arguments, session.size());
  if (arguments.dry_run) {
    if (session.is_root()) fmt::print("{}", preflight.report(session.size()));
    return ExitCode::ok;
  }
  const trainer::Config& config = preflight.config();
  comm::World& world = session.start_world(world_options(config.distributed, /*require_all_slurm_tasks=*/true));
  check_ranks(config, world.size(), preflight.places());
  // Held until the end; nothing is written into a run that another process trains.
  const auto claim =
      world.is_root()
          ? std::optional(trainer::claim_run_folder(trainer::RunPaths(config.run.directory), patience_with(config)))
          : std::nullopt;
  log_to_folder(trainer::RunPaths(config.run.directory).logs(), world.rank());
  record_flight(trainer::RunPaths(config.run.directory).flight(), world);
  const at::Device device = bind_device(config.distributed, world);
  const int threads = at::get_num_threads();
  spdlog::info("rank {} of {} on {}: {}, {} thread{}; {}", world.rank(), world.size(), world.host_name(), device.str(),
               threads, threads == 1 ? "" : "s", versions(", "));

  if (world.is_root() && !preflight.warning().empty()) spdlog::warn("{}", preflight.warning());
  const trainer::TrainOutcome outcome =
      trainer::train(config, resolved_toml(config), world, device,
                     {.trace = preflight.trace(), .notice = noted_signal, .program = versions(", ")});
  const bool finished = outcome.reason == trainer::StopReason::finished;
  if (world.is_root()) {
    spdlog::info("{} at step {} of {}; {}", name_of(outcome.reason), outcome.step, config.train.steps,
                 outcome.checkpoint.empty() ? "no checkpoint yet" : "checkpoint " + outcome.checkpoint.string());
    if (!finished) spdlog::info("the same command goes on from there");
  }
  return finished ? ExitCode::ok : ExitCode::unfinished;
}

/// An option without a dot that train does not have: most likely a key without its section.
void refuse_unknown(const std::vector<std::string>& arguments) {
  if (arguments.empty()) return;
  std::string message = "train does not understand '" + arguments.front() + "'";
  if (arguments.front().starts_with("--")) {
    std::vector<std::string> names = {"dry-run", "trace", "help"};
    for (const Key& key : key_table()) names.push_back(key.name);
    const std::string name = arguments.front().substr(2, arguments.front().find('=') - 2);
    const std::string nearest = nearest_name(name, names);
    if (!nearest.empty()) message += "; did you mean '--" + nearest + "'?";
  } else {
    message += "; it takes one configuration file";
  }
  throw UsageError(message);
}

}  // namespace

Command train_command(CLI::App& program, const std::vector<Override>& overrides) {
  CLI::App* app = program.add_subcommand("train", "Train a model, or go on with a run");
  const auto arguments = std::make_shared<TrainArguments>();
  arguments->overrides = overrides;
  app->add_option("CONFIG", arguments->config, "TOML file; docs/configuration.md lists its keys")
      ->required()
      ->type_name("FILE");
  app->add_flag("--dry-run", arguments->dry_run,
                "Print the resolved configuration and what the run will need; start nothing");
  app->add_option("--trace", arguments->trace, "Write a timeline of these steps to RUN/trace; docs/tracing.md")
      ->type_name("steps=FIRST-LAST");
  app->allow_extras();
  app->footer(
      "Any key may be overridden: --section.key=value. The same command goes on with the run in run.directory.\n"
      "\n"
      "Examples:\n"
      "  perrin train configs/quickstart.toml --dry-run\n"
      "  mpirun -np 2 perrin train configs/quickstart.toml --train.steps=2000 --ema.decays=[0.99,0.999]\n"
      "  mpirun -np 2 perrin train configs/quickstart.toml --trace steps=100-102\n");
  return {app, [arguments, app](Session& session) {
            refuse_unknown(app->remaining());
            return train(*arguments, session);
          }};
}

}  // namespace perrin::launch
