#include "launch/commands/bench_optimizer.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "launch/commands/copy_bandwidth.hpp"
#include "launch/commands/network_option.hpp"
#include "launch/commands/spread.hpp"
#include "launch/device.hpp"
#include "launch/usage_error.hpp"
#include "launch/world_options.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/optimize/adam_ema.hpp"
#include "trainer/optimize/gradient_norm.hpp"

namespace perrin::launch {
namespace {

struct OptimizerArguments {
  NetworkArguments network{.network = "ddpm-cifar10"};
  int rounds = 20;
  bool json = false;
};

ExitCode bench_optimizer(const OptimizerArguments& arguments, Session& session) {
  const BenchNetwork network = read_network(arguments.network);
  const trainer::Config& config = network.config;
  if (session.size() > 1) throw UsageError("the pass of one rank is measured; start it without mpirun");
  comm::World& world = session.start_world(world_options(config.distributed, /*require_all_slurm_tasks=*/false));
  if (!bind_device(config.distributed, world).is_cpu())
    throw UsageError("it measures the CPU; give --distributed.device=cpu");
  trainer::ParameterArena arena(
      trainer::unet_parameters(
          trainer::with_output_channels(config.model, network.image, config.diffusion.variance_type), network.image),
      config.ema.decays.size() + config.ema.power_sigmas.size(), config.run.seed, at::kCPU);
  arena.gradients().normal_();
  const trainer::AdamEma optimizer(config.optimizer, config.ema, config.train.steps);
  CopyBandwidth copy;

  std::vector<double> seconds, bandwidths, shares;
  const auto bytes = static_cast<double>(trainer::optimizer_pass_bytes(arena));
  for (int round = -2; round < arguments.rounds; ++round) {  // the first ones warm up
    const auto begun = std::chrono::steady_clock::now();
    const double norm = trainer::gradient_norm(arena, world.control());
    optimizer.update(arena, norm, round + 2, round + 2);
    const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    const double bandwidth = copy.measure();
    if (round < 0) continue;
    seconds.push_back(elapsed);
    bandwidths.push_back(bandwidth);
    shares.push_back(bytes / elapsed / bandwidth);
  }
  const Spread pass(seconds), copied(bandwidths), share(shares);
  if (arguments.json) {
    nlohmann::ordered_json report = {{"network", network.name},
                                     {"parameters", arena.layout().numel()},
                                     {"threads", at::get_num_threads()},
                                     {"rounds", arguments.rounds},
                                     {"bytes", bytes}};
    pass.write(report, "seconds");
    report["bytes_per_second"] = bytes / pass.median;
    copied.write(report, "copy_bytes_per_second");
    share.write(report, "ratio_optimizer_vs_copy");
    fmt::print("{}\n", report.dump());
    return ExitCode::ok;
  }
  fmt::print("{}: {} parameters, {} EMAs, {} threads, {} rounds\n", network.name, arena.layout().numel(),
             arena.emas().size(), at::get_num_threads(), arguments.rounds);
  fmt::print("norm, clip, Adam, EMA {:.2f} ms ({:.2f} to {:.2f}), {:.0f} MB moved: {:.1f} GB/s\n", pass.median * 1e3,
             pass.lowest * 1e3, pass.highest * 1e3, bytes / 1e6, bytes / pass.median / 1e9);
  fmt::print("a copy moves {:.1f} GB/s; share of it {:.2f} ({:.2f} to {:.2f})\n", copied.median / 1e9, share.median,
             share.lowest, share.highest);
  return ExitCode::ok;
}

}  // namespace

Command add_bench_optimizer(CLI::App& bench) {
  CLI::App* app = bench.add_subcommand("optimizer", "The pass of norm, clip, Adam and EMA beside a copy of its bytes");
  const auto arguments = std::make_shared<OptimizerArguments>();
  add_network_options(*app, arguments->network);
  app->add_option("--rounds", arguments->rounds, "Rounds of one pass and one copy, of which the median counts")
      ->check(CLI::Range(1, 10'000).description(""))
      ->type_name("N")
      ->capture_default_str();
  app->add_flag("--json", arguments->json, "Print JSON, one object");
  app->footer(
      "Bytes are those that must move: the norm reads the gradients; then weights, gradients, both moments and every\n"
      "EMA are read, and all but the gradients written. The copy is of 256 MiB, read and written, by the same\n"
      "threads, around the caches: a memcpy would move half as much again, for it reads what it is to write.\n"
      "\n"
      "Example:\n"
      "  perrin bench optimizer ddpm-cifar10 --distributed.threads=1\n");
  return {app, [arguments](Session& session) { return bench_optimizer(*arguments, session); }};
}

}  // namespace perrin::launch
