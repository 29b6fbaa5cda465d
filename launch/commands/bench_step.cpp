#include "launch/commands/bench_step.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "launch/commands/copy_bandwidth.hpp"
#include "launch/commands/network_option.hpp"
#include "launch/commands/operator_times.hpp"
#include "launch/commands/spread.hpp"
#include "launch/commands/step_limits.hpp"
#include "launch/device.hpp"
#include "launch/process_figures.hpp"
#include "launch/usage_error.hpp"
#include "launch/world_options.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/interchange/diffusers_export.hpp"
#include "trainer/optimize/adam_ema.hpp"
#include "trainer/precision.hpp"
#include "trainer/synthetic_steps.hpp"

namespace perrin::launch {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kLosses = 20;  // that --losses shows

struct StepArguments {
  NetworkArguments network;
  int warm_up = 3, steps = 10, rounds = 5;
  bool losses = false, breakdown = false, json = false;
  std::filesystem::path output;
};

/// What one program's run of steps gives.
struct StepFigures {
  double first_step_seconds = 0;  ///< from the start of the process until the first step is over
  std::vector<double> images_per_second;
  std::vector<double> losses;
};

/// The network as it is before the first step.
void export_initial(const std::filesystem::path& folder, const BenchNetwork& network, trainer::ParameterArena& arena) {
  require_writable_folder(folder.parent_path());
  std::map<std::string, at::Tensor> weights;
  for (const auto& range : arena.layout().ranges())
    weights[range.name] = arena.layout().view(arena.weights(), range).cpu();
  trainer::export_diffusers(folder, network.config.model, network.config.diffusion, network.image, weights);
}

StepFigures measure(trainer::SyntheticSteps& steps, const StepArguments& arguments, std::int64_t batch) {
  StepFigures figures;
  trainer::ActivityClock clock;
  const auto run = [&](int count) {
    for (int i = 0; i < count; ++i) {
      const double loss = steps.step(clock);
      if (figures.losses.size() < kLosses) figures.losses.push_back(loss);
    }
  };
  run(1);
  figures.first_step_seconds = seconds_since_process_start();
  run(arguments.warm_up - 1);
  for (int round = 0; round < arguments.rounds; ++round) {
    const auto begun = Clock::now();
    run(arguments.steps);
    figures.images_per_second.push_back(static_cast<double>(arguments.steps * batch) /
                                        std::chrono::duration<double>(Clock::now() - begun).count());
  }
  return figures;
}

/// One part of the step beside what it would take at its limit.
struct PartFigures {
  StepPart part = StepPart::other;
  double seconds = 0;        ///< of a step
  double limit_seconds = 0;  ///< 0: it has none
};

/// @param team  as that of the step
std::vector<PartFigures> break_down(trainer::SyntheticSteps& steps, int count, trainer::ThreadTeam& team) {
  using trainer::Activity;
  trainer::ActivityClock clock;
  std::array<double, kStepParts> seconds{};
  OperatorWork work;
  {
    const OperatorTimes times;
    for (int i = 0; i < count; ++i) steps.step(clock);
    for (std::size_t p = 0; p < kStepParts; ++p) seconds[p] = times.seconds(static_cast<StepPart>(p));
    work = times.work();
  }
  const auto at = [&](StepPart part) -> double& { return seconds[static_cast<std::size_t>(part)]; };
  at(StepPart::input) += clock.seconds(Activity::load);
  at(StepPart::optimizer) = clock.seconds(Activity::optimizer);
  at(StepPart::communication) = clock.seconds(Activity::agreement) + clock.seconds(Activity::buckets);
  at(StepPart::other) = 0;
  for (std::size_t p = 0; p < kStepParts; ++p)
    if (static_cast<StepPart>(p) != StepPart::other) at(StepPart::other) -= seconds[p];
  at(StepPart::other) += clock.step_seconds();

  CopyBandwidth copy;
  const double bandwidth = median({copy.measure(), copy.measure(), copy.measure()});
  const at::ScalarType type =
      work.convolutions.empty() ? at::kFloat : work.convolutions.rbegin()->first.type;  // of the network's inside
  // Forward reads and writes an activation; backward reads it and its gradient and writes a gradient.
  constexpr double kNormPasses = 5;
  constexpr double kTrainingFlops = 3;  // backward has two products for each of forward
  std::array<double, kStepParts> limits{};
  const auto limit = [&](StepPart part) -> double& { return limits[static_cast<std::size_t>(part)]; };
  limit(StepPart::convolution) = isolated_convolution_seconds(work.convolutions, team) / count;
  limit(StepPart::norm) = kNormPasses * work.norm_bytes / bandwidth / count;
  limit(StepPart::attention) = kTrainingFlops * work.matrix_flops / matrix_flops_per_second(type) / count;
  limit(StepPart::optimizer) = static_cast<double>(trainer::optimizer_pass_bytes(steps.arena())) / bandwidth;
  std::vector<PartFigures> parts;
  for (std::size_t p = 0; p < kStepParts; ++p)
    parts.push_back({static_cast<StepPart>(p), seconds[p] / count, limits[p]});
  return parts;
}

void print_parts(const std::vector<PartFigures>& parts) {
  double whole = 0;
  for (const PartFigures& part : parts) whole += part.seconds;
  fmt::print("{:<14}{:>10}{:>9}{:>11}{:>19}\n", "part", "ms a step", "share", "limit ms", "limit / measured");
  for (const PartFigures& part : parts) {
    fmt::print("{:<14}{:>10.2f}{:>7.1f} %", name_of(part.part), part.seconds * 1e3, 100 * part.seconds / whole);
    if (part.limit_seconds > 0)
      fmt::print("{:>11.2f}{:>19.2f}", part.limit_seconds * 1e3, part.limit_seconds / part.seconds);
    fmt::print("\n");
  }
}

nlohmann::ordered_json json_of(const std::vector<PartFigures>& parts) {
  nlohmann::ordered_json report;
  for (const PartFigures& part : parts) {
    report[fmt::format("{}_seconds", name_of(part.part))] = part.seconds;
    if (part.limit_seconds > 0)
      report[fmt::format("ratio_{}_vs_limit", name_of(part.part))] = part.limit_seconds / part.seconds;
  }
  return report;
}

ExitCode bench_step(const StepArguments& arguments, Session& session) {
  const BenchNetwork network = read_network(arguments.network);
  const trainer::Config& config = network.config;
  if (arguments.breakdown && session.size() > 1)
    throw UsageError("--breakdown looks at one rank; start it without mpirun");
  comm::World& world = session.start_world(world_options(config.distributed, /*require_all_slurm_tasks=*/true));
  const at::Device device = bind_device(config.distributed, world);
  trainer::SyntheticSteps steps(config, network.image, world, device);
  steps.connect(world.gradients(), config.distributed.overlap);
  if (!arguments.output.empty() && world.is_root()) export_initial(arguments.output, network, steps.arena());

  const std::int64_t batch = config.train.batch_size;
  const StepFigures figures = measure(steps, arguments, batch);
  const std::int64_t peak = world.control().all_reduce_value(peak_resident_bytes(), comm::ReduceOp::max);
  std::vector<PartFigures> parts;
  if (arguments.breakdown) {
    const int threads = at::get_num_threads();
    const std::int64_t largest = trainer::SlicePlan(config, world.size()).largest_slice();
    trainer::ThreadTeam team(trainer::parts_of_slice(largest, threads, device), threads);
    parts = break_down(steps, arguments.steps, team);
  }
  if (!world.is_root()) return ExitCode::ok;

  const Spread rate(figures.images_per_second);
  const at::ScalarType compute = trainer::compute_type(config.train.precision, device);
  if (arguments.json) {
    nlohmann::ordered_json report = {{"network", network.name},
                                     {"parameters", steps.parameters()},
                                     {"device", device.str()},
                                     {"precision", compute == at::kFloat ? "fp32" : "bf16"},
                                     {"ranks", world.size()},
                                     {"threads", at::get_num_threads()},
                                     {"batch", batch},
                                     {"steps", arguments.steps},
                                     {"rounds", arguments.rounds}};
    rate.write(report, "images_per_second");
    report["first_step_seconds"] = figures.first_step_seconds;
    report["peak_bytes"] = peak;
    if (arguments.losses) report["losses"] = figures.losses;
    if (arguments.breakdown) report["breakdown"] = json_of(parts);
    fmt::print("{}\n", report.dump());
    return ExitCode::ok;
  }
  fmt::print("{}: {} parameters, batch {} over {} rank{} of {} thread{} on {} in {}, {} rounds of {} steps\n",
             network.name, steps.parameters(), batch, world.size(), world.size() == 1 ? "" : "s", at::get_num_threads(),
             at::get_num_threads() == 1 ? "" : "s", device.str(),
             trainer::chosen_type(config.train.precision, compute, device), arguments.rounds, arguments.steps);
  fmt::print("{:.4g} images/s ({:.4g} to {:.4g}), first step over {:.2f} s after the start, at most {:.0f} MB a rank\n",
             rate.median, rate.lowest, rate.highest, figures.first_step_seconds, static_cast<double>(peak) / 1e6);
  if (arguments.losses) {
    fmt::print("losses:");
    for (const double loss : figures.losses) fmt::print(" {:.5f}", loss);
    fmt::print("\n");
  }
  if (arguments.breakdown) print_parts(parts);
  return ExitCode::ok;
}

}  // namespace

Command add_bench_step(CLI::App& bench) {
  CLI::App* app = bench.add_subcommand("step", "Images a second that training takes in, and what the time goes to");
  const auto arguments = std::make_shared<StepArguments>();
  add_network_options(*app, arguments->network);
  const auto count = [&](const std::string& name, int& value, const std::string& what) {
    app->add_option(name, value, what)
        ->check(CLI::Range(1, 100'000).description(""))
        ->type_name("N")
        ->capture_default_str();
  };
  count("--warm-up", arguments->warm_up, "Steps before the measurement");
  count("--steps", arguments->steps, "Steps of a round");
  count("--rounds", arguments->rounds, "Rounds, of which the median counts");
  app->add_flag("--losses", arguments->losses, "Show the losses of the first 20 steps");
  app->add_flag("--breakdown", arguments->breakdown, "Show the parts of a step, each beside its limit; one rank, CPU");
  app->add_option("--output", arguments->output, "New folder for the initial network, as `perrin export` writes it")
      ->type_name("DIR");
  app->add_flag("--json", arguments->json, "Print JSON, one object");
  app->footer(
      "A step is that of `perrin train`: uint8 images, noise, network with dropout, loss, backward, reduction, clip,\n"
      "Adam, EMA; only the images are made up. --SECTION.KEY=VALUE changes the configuration, as for train.\n"
      "\n"
      "Limits of --breakdown, measured in the same run: each convolution alone in its better memory format; for norms\n"
      "and the optimizer a copy of the bytes they must move; for attention and linear layers a large matrix product.\n"
      "bench/compare.sh sets the figures beside those of other programs.\n"
      "\n"
      "Examples:\n"
      "  perrin bench step small --breakdown\n"
      "  mpirun -np 2 perrin bench step ddpm-cifar10 --train.batch_size=16 --rounds 3\n");
  return {app, [arguments](Session& session) { return bench_step(*arguments, session); }};
}

}  // namespace perrin::launch
