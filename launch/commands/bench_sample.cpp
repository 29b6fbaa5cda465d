#include "launch/commands/bench_sample.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "launch/commands/network_option.hpp"
#include "launch/commands/spread.hpp"
#include "launch/device.hpp"
#include "launch/process_figures.hpp"
#include "launch/world_options.hpp"
#include "trainer/evaluate/sample_images.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/optimize/parameter_arena.hpp"
#include "trainer/precision.hpp"

namespace perrin::launch {
namespace {

struct SampleBenchArguments {
  NetworkArguments network;
  int rounds = 3;
  bool json = false;
};

ExitCode bench_sample(const SampleBenchArguments& arguments, Session& session) {
  const BenchNetwork network = read_network(arguments.network);
  const trainer::Config& config = network.config;
  comm::World& world = session.start_world(world_options(config.distributed, /*require_all_slurm_tasks=*/true));
  const at::Device device = bind_device(config.distributed, world);
  const trainer::ModelConfig model =
      trainer::with_output_channels(config.model, network.image, config.diffusion.variance_type);
  const at::ScalarType compute = trainer::compute_type(config.train.precision, device);
  trainer::ParameterArena arena(trainer::unet_parameters(model, network.image), 0, config.run.seed, device, {},
                                compute);
  const trainer::UNet unet(model, network.image, arena.frozen(arena.weights()), arena.layout().memory_format());

  std::vector<double> rates;
  const std::int64_t images = config.sample.rows * config.sample.columns;
  trainer::Config warm_up = config;
  warm_up.sample.steps = std::min<std::int64_t>(config.sample.steps, 2);
  trainer::sample_images(unet, warm_up, network.image, world.control(), device);
  for (int round = 0; round < arguments.rounds; ++round) {
    const auto begun = std::chrono::steady_clock::now();
    trainer::sample_images(unet, config, network.image, world.control(), device);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    rates.push_back(static_cast<double>(images) / seconds);
  }
  const std::int64_t peak = world.control().all_reduce_value(peak_resident_bytes(), comm::ReduceOp::max);
  if (!world.is_root()) return ExitCode::ok;
  const Spread rate(rates);
  if (arguments.json) {
    nlohmann::ordered_json report = {{"network", network.name},
                                     {"parameters", arena.layout().numel()},
                                     {"ranks", world.size()},
                                     {"threads", at::get_num_threads()},
                                     {"precision", compute == at::kFloat ? "fp32" : "bf16"},
                                     {"images", images},
                                     {"batch", config.sample.batch_size},
                                     {"sampling_steps", config.sample.steps},
                                     {"rounds", arguments.rounds}};
    rate.write(report, "images_per_second");
    report["peak_bytes"] = peak;
    fmt::print("{}\n", report.dump());
    return ExitCode::ok;
  }
  fmt::print("{}: {} parameters, {} images in batches of {}, {} steps, {} rank{} of {} thread{} in {}, {} rounds\n",
             network.name, arena.layout().numel(), images, config.sample.batch_size, config.sample.steps, world.size(),
             world.size() == 1 ? "" : "s", at::get_num_threads(), at::get_num_threads() == 1 ? "" : "s",
             trainer::chosen_type(config.train.precision, compute, device), arguments.rounds);
  fmt::print("{:.4g} images/s ({:.4g} to {:.4g}), at most {:.0f} MB a rank\n", rate.median, rate.lowest, rate.highest,
             static_cast<double>(peak) / 1e6);
  return ExitCode::ok;
}

}  // namespace

Command add_bench_sample(CLI::App& bench) {
  CLI::App* app = bench.add_subcommand("sample", "Images a second that sampling draws");
  const auto arguments = std::make_shared<SampleBenchArguments>();
  add_network_options(*app, arguments->network);
  app->add_option("--rounds", arguments->rounds, "Rounds, of which the median counts")
      ->check(CLI::Range(1, 10'000).description(""))
      ->type_name("N")
      ->capture_default_str();
  app->add_flag("--json", arguments->json, "Print JSON, one object");
  app->footer(
      "Draws sample.rows x sample.columns images of an untrained network, which costs what a trained one does; for "
      "the\n"
      "networks known by name 64, in one batch, by 50 steps of DDIM. --sample.KEY=VALUE changes that.\n"
      "\n"
      "Example:\n"
      "  perrin bench sample small --sample.steps=100\n");
  return {app, [arguments](Session& session) { return bench_sample(*arguments, session); }};
}

}  // namespace perrin::launch
