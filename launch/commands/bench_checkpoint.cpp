#include "launch/commands/bench_checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/file.hpp"
#include "launch/commands/image_option.hpp"
#include "launch/commands/median.hpp"
#include "launch/commands/temporary_folder.hpp"
#include "launch/config/read.hpp"
#include "launch/config/resolved.hpp"
#include "launch/device.hpp"
#include "launch/world_options.hpp"
#include "trainer/checkpoint/checkpoint_writer.hpp"
#include "trainer/checkpoint/incarnation.hpp"
#include "trainer/compute_stream.hpp"
#include "trainer/gather_texts.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/run_error.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::launch {
namespace {

using Clock = std::chrono::steady_clock;

struct CheckpointArguments {
  std::filesystem::path config, folder;
  std::string image = "3x32x32";
  int rounds = 5;
  bool json = false;
};

double seconds_since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

/// What is measured in one round, in seconds, of rank 0.
struct Figures {
  double copy = 0;     ///< memcpy of as many bytes as the state has
  double stall = 0;    ///< that training stands still
  double publish = 0;  ///< from there until the checkpoint has its name
  double plain = 0;    ///< write and fsync of as many bytes
};

/// memcpy by one thread between memory that is in use.
double copy_seconds(std::span<const std::byte> from, std::span<std::byte> to) {
  const auto begun = Clock::now();
  std::memcpy(to.data(), from.data(), from.size());
  return seconds_since(begun);
}

/// As dd with conv=fsync: what the storage gives at best.
double plain_write_seconds(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  constexpr std::size_t kPiece = std::size_t{4} << 20;
  const auto begun = Clock::now();
  data::File file = data::File::create(path);
  for (std::size_t i = 0; i < bytes.size(); i += kPiece)
    file.write_all(bytes.subspan(i, std::min(kPiece, bytes.size() - i)));
  file.sync();
  file.close();
  const double seconds = seconds_since(begun);
  std::filesystem::remove(path);
  return seconds;
}

Figures medians(const std::vector<Figures>& rounds) {
  const auto of = [&](double Figures::*figure) {
    std::vector<double> values;
    for (const Figures& round : rounds) values.push_back(round.*figure);
    return median(values);
  };
  return {of(&Figures::copy), of(&Figures::stall), of(&Figures::publish), of(&Figures::plain)};
}

ExitCode bench_checkpoint(const CheckpointArguments& arguments, Session& session) {
  trainer::Config config = arguments.config.empty() ? trainer::Config() : read_config(arguments.config);
  config.checkpoint.keep = 1;
  const data::ImageShape shape = read_image_shape(arguments.image);
  comm::World& world = session.start_world(world_options(config.distributed, /*require_all_slurm_tasks=*/true));
  const at::Device device = bind_device(config.distributed, world);
  std::optional<TemporaryFolder> folder;
  if (world.is_root())
    arguments.folder.empty() ? folder.emplace() : folder.emplace(std::filesystem::absolute(arguments.folder));
  const trainer::RunPaths paths(
      trainer::gather_texts(world.control(), folder ? folder->path().string() : std::string()).front());

  trainer::TrainingState state{
      .arena = trainer::ParameterArena(
          trainer::unet_parameters(trainer::with_output_channels(config.model, shape, config.diffusion.variance_type),
                                   shape),
          config.ema.decays.size() + config.ema.power_sigmas.size(), config.run.seed, device,
          trainer::shard_options(config, world.rank(), world.size())),
      .progress = {},
      .losses = {},
      .loss_history = trainer::LossHistory(0)};
  const trainer::ShardGather shards(state.arena, world.gradients(), trainer::compute_stream(device));
  const trainer::Incarnation incarnation = trainer::Incarnation::begin(paths, world.control());
  trainer::CheckpointWriter writer(state, shards, world.control(), incarnation, config.checkpoint);
  const trainer::CheckpointWriter::Order order{.parent = paths.checkpoints(),
                                               .origin = {.config = resolved_toml(config),
                                                          .dataset_fingerprint = "",
                                                          .image_shape = shape,
                                                          .sample_order = "",
                                                          .ema_decays = config.ema.decays,
                                                          .power_sigmas = config.ema.power_sigmas},
                                               .resumed_from = ""};

  std::vector<Figures> rounds;
  std::uint64_t bytes = 0;
  for (int round = 0; round <= arguments.rounds; ++round) {  // the first one warms up
    ++state.progress.step;
    writer.begin_checkpoint(order);
    const auto outcome = writer.finish();
    if (!outcome->published) throw trainer::RunError("the checkpoint could not be written; its rank says why");
    bytes = outcome->bytes;
    Figures figures{.stall = outcome->stall_seconds, .publish = outcome->seconds - outcome->stall_seconds};
    if (world.is_root()) {
      const std::vector<std::byte> from(bytes, std::byte{1});
      std::vector<std::byte> to(bytes, std::byte{2});
      figures.copy = copy_seconds(from, to);
      figures.plain = plain_write_seconds(paths.root() / "plain", from);
    }
    if (round > 0) rounds.push_back(figures);
    world.control().barrier().wait();
  }
  if (!world.is_root()) return ExitCode::ok;
  const Figures figures = medians(rounds);
  const double stall_vs_copy = figures.stall / figures.copy, write_vs_plain = figures.plain / figures.publish;
  if (arguments.json) {
    const nlohmann::ordered_json report = {{"ranks", world.size()},
                                           {"parameters", state.arena.layout().numel()},
                                           {"bytes", bytes},
                                           {"rounds", arguments.rounds},
                                           {"copy_seconds", figures.copy},
                                           {"stall_seconds", figures.stall},
                                           {"publish_seconds", figures.publish},
                                           {"plain_write_seconds", figures.plain},
                                           {"ratio_stall_vs_memcpy", stall_vs_copy},
                                           {"ratio_throughput_vs_plain_write", write_vs_plain}};
    fmt::print("{}\n", report.dump());
    return ExitCode::ok;
  }
  const double megabytes = static_cast<double>(bytes) / 1e6;
  fmt::print("{} rank{}, {} parameters, {:.1f} MB a checkpoint, {} rounds\n", world.size(),
             world.size() == 1 ? "" : "s", state.arena.layout().numel(), megabytes, arguments.rounds);
  fmt::print("training stands still   {:8.1f} ms, {:.2f} of a memcpy of these bytes ({:.1f} ms)\n", figures.stall * 1e3,
             stall_vs_copy, figures.copy * 1e3);
  fmt::print("written and published   {:8.1f} ms, {:.0f} MB/s, {:.2f} of a plain write with fsync ({:.0f} MB/s)\n",
             figures.publish * 1e3, megabytes / figures.publish, write_vs_plain, megabytes / figures.plain);
  return ExitCode::ok;
}

}  // namespace

Command add_bench_checkpoint(CLI::App& bench) {
  CLI::App* app = bench.add_subcommand("checkpoint", "How long a checkpoint stops the training, and takes to write");
  const auto arguments = std::make_shared<CheckpointArguments>();
  app->add_option("CONFIG", arguments->config, "Network and averages; default: that of DDPM for CIFAR-10, one EMA")
      ->type_name("FILE");
  app->add_option("--image", arguments->image, "Shape of the images for which the network is built")
      ->type_name("CxHxW")
      ->capture_default_str();
  app->add_option("--folder", arguments->folder, "Where to write, on the file system of the runs; default: $TMPDIR")
      ->type_name("DIR");
  app->add_option("--rounds", arguments->rounds, "Checkpoints, of which the median counts")
      ->check(CLI::Range(1, 1000).description(""))
      ->type_name("N")
      ->capture_default_str();
  app->add_flag("--json", arguments->json, "Print JSON");
  app->footer(
      "Training stands still while the state is copied; threads write the copy. Beside both stand their limits, in "
      "the\n"
      "same run: a memcpy of as many bytes, and a plain write of them with fsync.\n"
      "\n"
      "Example:\n"
      "  mpirun -np 2 perrin bench checkpoint --folder runs\n");
  return {app, [arguments](Session& session) { return bench_checkpoint(*arguments, session); }};
}

}  // namespace perrin::launch
