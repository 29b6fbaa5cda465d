#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/manifest.hpp"
#include "launch/commands/command.hpp"
#include "launch/commands/image_option.hpp"
#include "launch/commands/median.hpp"
#include "launch/config/config_error.hpp"
#include "launch/device.hpp"
#include "launch/device_options.hpp"
#include "launch/scaling_model.hpp"
#include "launch/usage_error.hpp"
#include "launch/world_options.hpp"
#include "trainer/estimate.hpp"
#include "trainer/synthetic_steps.hpp"

namespace perrin::launch {
namespace {

struct PlanArguments {
  std::filesystem::path config;
  std::vector<Override> overrides;
  std::string image;
  std::vector<int> nodes = {1, 2, 4, 8, 16};
  int ranks_per_node = 8;
  bool weak = false;
  double step_milliseconds = 0;
  double optimizer_milliseconds = 0;
  std::int64_t step_images = 0;
  double latency_us = 0;
  double busbw_gb = 0;
  DeviceOptions device;
  bool json = false;
};

/// One rank's step as it was measured, here or elsewhere.
struct MeasuredStep {
  double compute_seconds = 0;
  double optimizer_seconds = 0;
  std::int64_t images = 0;
};

struct Row {
  int nodes = 0, ranks = 0;
  std::string_view way;
  double images_per_rank = 0;
  StepPrediction step;
  double images_per_second = 0;
  std::int64_t memory_bytes = 0;  ///< without activations
  std::string bound;
};

data::ImageShape shape_of(const PlanArguments& arguments, const trainer::Config& config) {
  if (!arguments.image.empty()) return read_image_shape(arguments.image);
  if (config.data.train.empty())
    throw UsageError("the images have no shape: give --image CxHxW, or a configuration with data.train");
  return data::read_manifest(config.data.train).shape;
}

MeasuredStep measure(const PlanArguments& arguments, trainer::Config config, const data::ImageShape& shape,
                     Session& session) {
  config.train.batch_size = arguments.step_images;
  config.train.micro_batch = 0;
  config.distributed = arguments.device.config();  // fast reduction of one rank: nothing is reduced
  if (session.size() > 1) throw UsageError("the step of one rank is measured; start `perrin plan` without mpirun");
  comm::World& world = session.start_world(world_options(config.distributed, /*require_all_slurm_tasks=*/false));
  trainer::SyntheticSteps steps(config, shape, world, bind_device(config.distributed, world));
  steps.connect(world.gradients(), /*overlap=*/true);
  std::vector<double> compute, optimizer;
  constexpr int kWarmUps = 2, kSteps = 5;
  for (int i = 1; i <= kWarmUps + kSteps; ++i) {
    trainer::ActivityClock clock;
    steps.step(clock);
    if (i <= kWarmUps) continue;
    optimizer.push_back(clock.seconds(trainer::Activity::optimizer) + clock.seconds(trainer::Activity::buckets));
    compute.push_back(clock.step_seconds() - optimizer.back());
  }
  return {median(compute), median(optimizer), arguments.step_images};
}

std::int64_t memory_of(trainer::Config config, const data::ImageShape& shape, int ranks, bool shard) {
  config.optimizer.shard = shard;
  const trainer::Estimate e = trainer::estimate(config, shape, ranks);
  return e.weight_bytes + e.gradient_bytes + e.adam_bytes + e.ema_bytes + e.gathered_bytes;
}

std::vector<Row> predict(const PlanArguments& arguments, trainer::Config config, const data::ImageShape& shape,
                         const MeasuredStep& measured) {
  const Fabric fabric = arguments.busbw_gb > 0 ? Fabric::measured(arguments.latency_us * 1e-6, arguments.busbw_gb * 1e9)
                                               : Fabric::h100_400g();
  const double bytes_per_gradient = config.distributed.wire == trainer::Wire::bf16 ? 2 : 4;
  const std::int64_t one_node_batch = config.train.batch_size;
  std::vector<Row> rows;
  for (const int nodes : arguments.nodes) {
    const int ranks = nodes * arguments.ranks_per_node;
    config.train.batch_size = one_node_batch * (arguments.weak ? nodes : 1);
    if (config.train.batch_size < ranks)
      throw UsageError(
          fmt::format("{} nodes have {} ranks, more than the batch has images ({}); --weak lets the batch "
                      "grow with the nodes",
                      nodes, ranks, config.train.batch_size));
    const trainer::Estimate e = trainer::estimate(config, shape, ranks);
    const double images = static_cast<double>(e.images_per_rank);
    const StepLoad load{.compute_seconds = measured.compute_seconds * images / static_cast<double>(measured.images),
                        .optimizer_seconds = measured.optimizer_seconds,
                        .gradient_bytes = static_cast<double>(e.parameters) * bytes_per_gradient,
                        .bucket_bytes = config.distributed.bucket_mib * 1024 * 1024 * bytes_per_gradient / 4};
    using enum Communication;
    for (const auto& [way, name] :
         {std::pair{after_backward, "after backward"}, {overlapped, "overlapped"}, {sharded, "sharded (ZeRO-1)"}}) {
      Row row{.nodes = nodes, .ranks = ranks, .way = name, .images_per_rank = images};
      row.step = predict_step(load, way, fabric, ranks, arguments.ranks_per_node);
      row.images_per_second = static_cast<double>(config.train.batch_size) / row.step.seconds;
      row.memory_bytes = memory_of(config, shape, ranks, way == sharded);
      row.bound = bound_of(load, row.step, way);
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

void print_table(const std::vector<Row>& rows) {
  fmt::print("{:>5} {:>6}  {:<17} {:>11} {:>9} {:>11} {:>11} {:>10} {:>10}  {}\n", "nodes", "ranks", "communication",
             "images/rank", "step ms", "exposed ms", "efficiency", "images/s", "MiB/rank", "bound by");
  for (const Row& row : rows)
    fmt::print("{:>5} {:>6}  {:<17} {:>11.0f} {:>9.2f} {:>11.2f} {:>9.1f} % {:>10.0f} {:>10.0f}  {}\n", row.nodes,
               row.ranks, row.way, row.images_per_rank, row.step.seconds * 1e3, row.step.exposed_seconds * 1e3,
               100 * row.step.efficiency, row.images_per_second, static_cast<double>(row.memory_bytes) / 1048576.0,
               row.bound);
}

void print_json(const std::vector<Row>& rows) {
  for (const Row& row : rows)
    fmt::print("{}\n", nlohmann::ordered_json{{"nodes", row.nodes},
                                              {"ranks", row.ranks},
                                              {"communication", row.way},
                                              {"images_per_rank", row.images_per_rank},
                                              {"step_seconds", row.step.seconds},
                                              {"communication_seconds", row.step.communication_seconds},
                                              {"exposed_seconds", row.step.exposed_seconds},
                                              {"efficiency", row.step.efficiency},
                                              {"images_per_second", row.images_per_second},
                                              {"memory_bytes", row.memory_bytes},
                                              {"bound_by", row.bound}}
                           .dump());
}

ExitCode plan(PlanArguments arguments, Session& session) {
  const trainer::Config config = read_config(arguments.config, arguments.overrides);
  const data::ImageShape shape = shape_of(arguments, config);
  try {
    if (arguments.step_images == 0)
      arguments.step_images = trainer::estimate(config, shape, arguments.ranks_per_node).images_per_rank;
    MeasuredStep step{.compute_seconds = (arguments.step_milliseconds - arguments.optimizer_milliseconds) * 1e-3,
                      .optimizer_seconds = arguments.optimizer_milliseconds * 1e-3,
                      .images = arguments.step_images};
    if (arguments.step_milliseconds == 0) step = measure(arguments, config, shape, session);
    if (!(step.compute_seconds > 0)) throw UsageError("--optimizer-time is a part of --step-time, and less than it");
    const std::vector<Row> rows = predict(arguments, config, shape, step);
    if (arguments.json) {
      print_json(rows);
      return ExitCode::ok;
    }
    fmt::print("one rank, {} images: {:.2f} ms forward and backward, {:.2f} ms optimizer ({})\n", step.images,
               step.compute_seconds * 1e3, step.optimizer_seconds * 1e3,
               arguments.step_milliseconds > 0 ? "as given" : "measured here");
    print_table(rows);
  } catch (const std::invalid_argument& error) {  // of the network or of the batch
    throw ConfigError(arguments.config.string(), "model", error.what());
  }
  return ExitCode::ok;
}

}  // namespace

Command plan_command(CLI::App& program, const std::vector<Override>& overrides) {
  CLI::App* app = program.add_subcommand("plan", "Predict step time, efficiency and memory on more nodes");
  const auto arguments = std::make_shared<PlanArguments>();
  arguments->overrides = overrides;
  app->add_option("CONFIG", arguments->config, "TOML file of the run")->required()->type_name("FILE");
  app->add_option("--nodes", arguments->nodes, "Numbers of nodes")
      ->delimiter(',')
      ->check(CLI::Range(1, 100'000).description(""))
      ->type_name("N,...")
      ->capture_default_str();
  app->add_option("--ranks-per-node", arguments->ranks_per_node, "Ranks, one a GPU, of each node")
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("N")
      ->capture_default_str();
  app->add_flag("--weak", arguments->weak, "train.batch_size is that of one node, and grows with them");
  auto* step_time = app->add_option("--step-time", arguments->step_milliseconds,
                                    "Milliseconds of one rank's step; else measured here")
                        ->check(CLI::PositiveNumber.description(""))
                        ->type_name("MS");
  app->add_option("--optimizer-time", arguments->optimizer_milliseconds, "Of them, for clip, Adam and EMA")
      ->check(CLI::NonNegativeNumber.description(""))
      ->type_name("MS")
      ->needs(step_time);
  app->add_option("--step-images", arguments->step_images, "Images of that step (default: a rank's share of one node)")
      ->check(CLI::Range(1, 1'000'000).description(""))
      ->type_name("N");
  app->add_option("--busbw", arguments->busbw_gb, "Bus bandwidth of an all-reduce as `perrin bench comm` measured it")
      ->check(CLI::PositiveNumber.description(""))
      ->type_name("GB/s");
  app->add_option("--latency", arguments->latency_us, "And its latency")
      ->check(CLI::NonNegativeNumber.description(""))
      ->type_name("US");
  app->add_option("--image", arguments->image, "Shape of the images (default: those of data.train)")
      ->type_name("CxHxW");
  add_device_options(*app, arguments->device, "Where the step is measured");
  app->add_flag("--json", arguments->json, "Print JSON, one object a line");
  app->footer(
      "A model, not a measurement: time proportional to images, and an all-reduce of latency + bytes / bandwidth. "
      "Without\n"
      "--busbw it is that of nodes of 8 H100 with NVLink and 400 Gb/s a GPU; docs/scaling.md has the constants and "
      "their\n"
      "sources. Efficiency compares with a step that does not communicate. Any key may be overridden: "
      "--section.key=value.\n"
      "\n"
      "Examples:\n"
      "  perrin plan configs/ddpm-cifar10.toml --image 3x32x32 --step-time 13.75 --optimizer-time 0.45 "
      "--step-images 128 --weak --train.batch_size=1024\n"
      "  perrin plan configs/quickstart.toml --nodes 1,2,4 --ranks-per-node 2 --busbw 1.8 --latency 80\n");
  return {app, [arguments](Session& session) { return plan(*arguments, session); }};
}

}  // namespace perrin::launch
