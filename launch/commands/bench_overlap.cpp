#include "launch/commands/bench_overlap.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "launch/commands/image_option.hpp"
#include "launch/commands/median.hpp"
#include "launch/config/read.hpp"
#include "launch/device.hpp"
#include "launch/usage_error.hpp"
#include "launch/world_options.hpp"
#include "trainer/synthetic_steps.hpp"
#include "trainer/telemetry/activity_clock.hpp"
#include "trainer/telemetry/rank_trace.hpp"
#include "trainer/telemetry/timeline_files.hpp"

namespace perrin::launch {
namespace {

struct OverlapArguments {
  std::filesystem::path config;
  std::string image = "1x28x28";
  int rounds = 10;
  double wire_share = 0.5;
  double bandwidth = 0;
  double latency = 0;
  bool json = false;
  std::filesystem::path trace;
};

/// The network of configs/quickstart.toml, in buckets small enough for several of them; twice its batch makes the times
/// of a step long beside those of a busy scheduler.
trainer::Config small_network() {
  trainer::Config config;
  config.model.block_out_channels = {16, 32, 64};
  config.model.layers_per_block = 1;
  config.model.attention_resolutions = {7};
  config.model.norm_num_groups = 8;
  config.train.batch_size = 64;
  config.distributed.bucket_mib = 0.125;
  return config;
}

/// What is measured of one step, in seconds; the mean over the ranks.
struct Figures {
  double step = 0, backward = 0, bucket = 0, hidden = 0, waiting = 0;
};

Figures medians(const std::vector<Figures>& steps) {
  const auto of = [&](double Figures::*figure) {
    std::vector<double> values;
    for (const Figures& step : steps) values.push_back(step.*figure);
    return median(values);
  };
  return {of(&Figures::step), of(&Figures::backward), of(&Figures::bucket), of(&Figures::hidden),
          of(&Figures::waiting)};
}

/// Seconds of backward without a wire in the way: the shortest of some, since what else the machine does only makes it
/// longer; the mean over the ranks.
double backward_seconds(trainer::SyntheticSteps& steps, comm::World& world) {
  constexpr int kSteps = 10;
  double shortest = std::numeric_limits<double>::infinity();
  steps.connect(world.gradients(), /*overlap=*/false);
  for (int i = 0; i < kSteps; ++i) {
    trainer::ActivityClock clock;
    world.control().barrier().wait();
    steps.step(clock);
    shortest = std::min(shortest, clock.seconds(trainer::Activity::backward));
  }
  return world.control().all_reduce_value(shortest, comm::ReduceOp::sum) / world.size();
}

/// Odd steps with overlap, even ones without, so that both meet the same load of the machine.
trainer::RankTrace measure(trainer::SyntheticSteps& steps, int rounds, comm::World& world,
                           comm::Communicator& gradients, comm::FlightRecorder& recorder) {
  trainer::RankTrace trace{.rank = world.rank(),
                           .host = world.host_name(),
                           .time = trainer::common_time_base(world.control()),
                           .activities = {},
                           .collectives = {},
                           .reads = {}};
  trainer::ActivityClock clock;
  recorder.keep_finished(true);
  clock.keep_spans(true);
  for (int step = 1; step <= 2 * rounds; ++step) {
    steps.connect(gradients, /*overlap=*/step % 2 == 1);
    world.control().barrier().wait();
    clock.begin_step(step);
    steps.step(clock);
  }
  const comm::FlightRecorder::Finished finished = recorder.take_finished();
  trace.activities = clock.take_spans();
  trace.collectives = trainer::collective_spans(finished, recorder);
  trace.missed_collectives = finished.missed;
  return trace;
}

/// Of every step. Collective.
std::vector<Figures> figures_of(const trainer::RankTrace& trace, comm::World& world) {
  std::vector<Figures> figures;
  for (const trainer::StepOverlap& overlap : trainer::overlap_of_steps(trace)) {
    double waiting = 0;
    for (const trainer::ActivitySpan& span : trace.activities)
      if (span.step == overlap.step && span.activity == trainer::Activity::buckets)
        waiting += 1e-9 * static_cast<double>(span.ended_ns - span.begun_ns);
    std::array values = {overlap.step_seconds, overlap.backward, overlap.bucket, overlap.hidden, waiting};
    world.control().all_reduce(std::span<double>(values), comm::ReduceOp::sum).wait();
    for (double& value : values) value /= world.size();
    figures.push_back({values[0], values[1], values[2], values[3], values[4]});
  }
  return figures;
}

struct Outcome {
  Figures on, off;
  double saved = 0;  ///< by overlap, of a step; median over the rounds

  explicit Outcome(const std::vector<Figures>& steps) {
    std::vector<Figures> with, without;
    std::vector<double> differences;
    for (std::size_t i = 0; i + 1 < steps.size(); i += 2) {
      with.push_back(steps[i]);
      without.push_back(steps[i + 1]);
      differences.push_back(steps[i + 1].step - steps[i].step);
    }
    on = medians(with);
    off = medians(without);
    saved = median(differences);
  }
};

void print_json(const Outcome& outcome, const nlohmann::ordered_json& setting) {
  for (const bool overlap : {true, false}) {
    const Figures& figures = overlap ? outcome.on : outcome.off;
    nlohmann::ordered_json line = setting;
    line.update({{"overlap", overlap},
                 {"step_seconds", figures.step},
                 {"backward_seconds", figures.backward},
                 {"bucket_seconds", figures.bucket},
                 {"hidden_seconds", figures.hidden},
                 {"hidden_share", figures.hidden / figures.bucket},
                 {"exposed_seconds", figures.bucket - figures.hidden},
                 {"waiting_seconds", figures.waiting}});
    if (overlap) line["saved_seconds"] = outcome.saved;
    fmt::print("{}\n", line.dump());
  }
}

void print_table(const Outcome& outcome) {
  fmt::print("{:<10}{:>10}{:>14}{:>12}{:>18}{:>14}{:>14}\n", "overlap", "step ms", "backward ms", "bucket ms",
             "under backward", "exposed ms", "waiting ms");
  for (const bool overlap : {true, false}) {
    const Figures& figures = overlap ? outcome.on : outcome.off;
    fmt::print("{:<10}{:>10.1f}{:>14.1f}{:>12.1f}{:>16.0f} %{:>14.1f}{:>14.1f}\n", overlap ? "on" : "off",
               figures.step * 1e3, figures.backward * 1e3, figures.bucket * 1e3, 100 * figures.hidden / figures.bucket,
               (figures.bucket - figures.hidden) * 1e3, figures.waiting * 1e3);
  }
  fmt::print("overlap makes the step {:.1f} ms shorter ({:.0f} %); {:.1f} ms of communication lie under backward\n",
             outcome.saved * 1e3, 100 * outcome.saved / outcome.off.step, outcome.on.hidden * 1e3);
}

ExitCode bench_overlap(const OverlapArguments& arguments, Session& session) {
  trainer::Config config = arguments.config.empty() ? small_network() : read_config(arguments.config);
  config.distributed.device = comm::DeviceChoice::cpu;  // the wire is simulated between host memories
  const data::ImageShape shape = read_image_shape(arguments.image);
  if (session.size() < 2)
    throw UsageError("one rank sends no gradients; start it as `mpirun -np 2 perrin bench overlap`");

  const comm::WorldOptions options = world_options(config.distributed, /*require_all_slurm_tasks=*/true);
  comm::World& world = session.start_world(options);
  bind_device(config.distributed, world);
  trainer::SyntheticSteps steps(config, shape, world, at::kCPU);
  const double backward = backward_seconds(steps, world);

  const auto recorder = std::make_shared<comm::FlightRecorder>();
  comm::CommunicatorOptions wired = options.communicator;
  wired.flight = {recorder, recorder->add_track("gradients")};
  wired.wire.latency = std::chrono::nanoseconds(static_cast<std::int64_t>(arguments.latency * 1e3));
  wired.wire.bytes_per_second = arguments.bandwidth > 0
                                    ? arguments.bandwidth * 1e6
                                    : static_cast<double>(steps.gradient_bytes()) / (arguments.wire_share * backward);
  const auto gradients = world.make_communicator(wired);
  const trainer::RankTrace trace = measure(steps, arguments.rounds, world, *gradients, *recorder);
  const Outcome outcome(figures_of(trace, world));

  if (world.is_root() && arguments.json) {
    print_json(outcome, {{"ranks", world.size()},
                         {"parameters", steps.parameters()},
                         {"buckets", steps.buckets()},
                         {"wire_bytes_per_second", wired.wire.bytes_per_second},
                         {"wire_latency_seconds", arguments.latency * 1e-6},
                         {"rounds", arguments.rounds}});
  } else if (world.is_root()) {
    fmt::print("{} ranks, {} parameters in {} buckets, a simulated wire of {:.1f} MB/s and {:g} us, {} rounds\n",
               world.size(), steps.parameters(), steps.buckets(), wired.wire.bytes_per_second / 1e6, arguments.latency,
               arguments.rounds);
    print_table(outcome);
  }
  if (!arguments.trace.empty()) trainer::write_timeline(arguments.trace, {1, 2 * arguments.rounds}, trace, world);
  return ExitCode::ok;
}

}  // namespace

Command add_bench_overlap(CLI::App& bench) {
  CLI::App* app =
      bench.add_subcommand("overlap", "Training steps over a simulated slow wire, with and without overlap");
  const auto arguments = std::make_shared<OverlapArguments>();
  app->add_option("CONFIG", arguments->config,
                  "TOML file whose network, batch and buckets are measured (default: the quickstart's network)")
      ->type_name("FILE");
  app->add_option("--image", arguments->image, "Shape of the images, which are made up")
      ->type_name("CxHxW")
      ->capture_default_str();
  app->add_option("--rounds", arguments->rounds, "Rounds of one step with overlap and one without; medians count")
      ->check(CLI::Range(1, 10'000).description(""))
      ->type_name("N")
      ->capture_default_str();
  auto* share = app->add_option("--wire-share", arguments->wire_share,
                                "Time of all gradients on the wire, as a share of the backward pass")
                    ->check(CLI::Range(0.01, 100.0).description(""))
                    ->type_name("X")
                    ->capture_default_str();
  app->add_option("--bandwidth", arguments->bandwidth, "Of the wire in MB/s, instead of --wire-share")
      ->check(CLI::PositiveNumber.description(""))
      ->type_name("MB/s")
      ->excludes(share);
  app->add_option("--latency", arguments->latency, "Of the wire in microseconds, for each bucket")
      ->check(CLI::Range(0.0, 1e7).description(""))
      ->type_name("US")
      ->capture_default_str();
  app->add_option("--trace", arguments->trace, "Folder for the timeline: odd steps have overlap, even ones do not")
      ->type_name("DIR");
  app->add_flag("--json", arguments->json, "Print JSON, one object a line");
  app->footer(
      "Computes on the CPU. A bucket takes at least latency + bytes / bandwidth from its start; bucket time under\n"
      "backward is hidden, the rest exposed. docs/tracing.md explains the figures.\n"
      "\n"
      "Example:\n"
      "  mpirun -np 2 --bind-to none perrin bench overlap --wire-share 0.5\n");
  return {app, [arguments](Session& session) { return bench_overlap(*arguments, session); }};
}

}  // namespace perrin::launch
