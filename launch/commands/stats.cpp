#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "data/dataset.hpp"
#include "launch/commands/command.hpp"
#include "launch/commands/score_samples.hpp"
#include "launch/device.hpp"
#include "launch/device_options.hpp"
#include "launch/usage_error.hpp"
#include "launch/world_options.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/evaluate/feature_extractor.hpp"
#include "trainer/evaluate/reference_statistics.hpp"

namespace perrin::launch {
namespace {

struct StatsArguments {
  std::filesystem::path dataset, output;
  ExtractorArguments extractor{.extractor = "builtin", .sha256 = {}};
  DeviceOptions device;
  int threads = 0;
};

ExitCode stats(const StatsArguments& arguments, Session& session) {
  if (std::filesystem::exists(arguments.output))
    throw UsageError(arguments.output.string() + " exists already; name another --output, or remove it first");
  require_writable_folder(arguments.output.parent_path());
  const data::Dataset dataset(arguments.dataset);
  trainer::DistributedConfig config = arguments.device.config();
  config.threads = arguments.threads;
  comm::World& world = session.start_world(world_options(config, /*require_all_slurm_tasks=*/false));
  const at::Device device = bind_device(config, world);
  const auto extractor = trainer::open_extractor(arguments.extractor.extractor, arguments.extractor.sha256, device);
  const auto statistics = trainer::measure_reference(dataset, *extractor, world.control());
  if (!world.is_root()) return ExitCode::ok;
  std::filesystem::create_directories(std::filesystem::absolute(arguments.output).parent_path());
  trainer::write_reference(arguments.output, *statistics);
  spdlog::info("{}: mean and covariance of {} features of {} images, by {} (SHA-256 {})", arguments.output.string(),
               statistics->fit.mu.size(0), statistics->images, statistics->extractor.name,
               statistics->extractor.sha256);
  return ExitCode::ok;
}

}  // namespace

Command stats_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("stats", "Measure a dataset that samples are compared with");
  const auto arguments = std::make_shared<StatsArguments>();
  app->add_option("DATASET", arguments->dataset, "A dataset folder")->required()->type_name("DIR");
  app->add_option("--output", arguments->output, "New file: mu and sigma as guided-diffusion, EDM and pytorch-fid read")
      ->required()
      ->type_name("FILE.npz");
  add_extractor_options(*app, arguments->extractor, "builtin");
  add_device_options(*app, arguments->device, "Where features are computed");
  app->add_option("--threads", arguments->threads, "Threads of each rank on the CPU; 0: its share of the cores")
      ->check(CLI::Range(0, 4096).description(""))
      ->type_name("N")
      ->capture_default_str();
  app->footer(
      "Every image, not mirrored; ranks share the work, with the same result on any number of them with the same\n"
      "threads each.\n"
      "\n"
      "Examples:\n"
      "  perrin stats datasets/fashion-mnist/train --output fashion.npz\n"
      "  mpirun -np 4 perrin stats datasets/cifar10/train --output cifar10.npz --extractor inception-2015-12-05.pt \\\n"
      "    --extractor-sha256 f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4\n");
  return {app, [arguments](Session& session) { return stats(*arguments, session); }};
}

}  // namespace perrin::launch
