#include <fmt/format.h>

#include <memory>
#include <set>

#include "launch/commands/command.hpp"
#include "launch/device.hpp"
#include "launch/device_options.hpp"
#include "launch/selftest/checklist.hpp"
#include "launch/selftest/collective_checks.hpp"
#include "launch/selftest/machine_checks.hpp"
#include "launch/versions.hpp"
#include "launch/world_options.hpp"
#include "launch/writable_folder.hpp"

namespace perrin::launch {
namespace {

struct SelftestArguments {
  DeviceOptions device;
  std::filesystem::path directory;
  double timeout_seconds = 30;
};

constexpr std::pair<CollectiveName, const char*> kCollectives[] = {{CollectiveName::all_reduce, "all_reduce"},
                                                                   {CollectiveName::reduce_scatter, "reduce_scatter"},
                                                                   {CollectiveName::all_gather, "all_gather"},
                                                                   {CollectiveName::all_to_all, "all_to_all"},
                                                                   {CollectiveName::broadcast, "broadcast"}};
constexpr comm::DataType kTypes[] = {comm::DataType::float32, comm::DataType::bfloat16, comm::DataType::float64,
                                     comm::DataType::int64, comm::DataType::uint8};

void check_communicator(Checklist& checklist, comm::Communicator& on, at::Device device, comm::World& world) {
  const auto name = [&](std::string_view what) { return fmt::format("{} {}", on.backend(), what); };
  for (const auto& [collective, text] : kCollectives)
    for (const comm::DataType type : kTypes)
      checklist.run(name(fmt::format("{} of {}", text, comm::name_of(type))),
                    [&, collective = collective] { return check_collective(on, device, collective, type); });
  checklist.run(name("sum of 64 MiB: right, and the same bits"),
                [&] { return check_large_sum(on, device, world.control()); });
}

ExitCode selftest(const SelftestArguments& arguments, Session& session) {
  trainer::DistributedConfig config = arguments.device.config();
  config.timeout_seconds = arguments.timeout_seconds;
  if (!arguments.directory.empty()) make_writable_folder(arguments.directory);
  comm::World& world = session.start_world(world_options(config, /*require_all_slurm_tasks=*/true));
  const at::Device device = bind_device(config, world);
  if (world.is_root()) {
    const std::size_t hosts = std::set(world.host_names().begin(), world.host_names().end()).size();
    fmt::print("{} rank{} on {} host{}; {}\n", world.size(), world.size() == 1 ? "" : "s", hosts, hosts == 1 ? "" : "s",
               versions(", "));
  }

  Checklist checklist(world);
  checklist.run("same versions on all ranks", [&] { return check_same_versions(world); });
  checklist.run("known answers of SHA-256, CRC-32C, Philox", check_known_answers);
  checklist.run("bits of keyed random numbers", check_random_bits);
  checklist.run(fmt::format("training step of a small U-Net on {}", device.is_cpu() ? "the CPU" : "the GPU"),
                [&] { return check_training_step(device); });
  checklist.run("file system of the run folder", [&] { return check_folder(arguments.directory, world); });
  check_communicator(checklist, world.gradients(), device, world);
  if (world.gradients().backend() != world.control().backend())
    check_communicator(checklist, world.control(), at::kCPU, world);
  checklist.run(fmt::format("{} operations in the order of streams", world.gradients().backend()),
                [&] { return check_stream_order(world.gradients(), device); });
  return checklist.conclude() ? ExitCode::ok : ExitCode::failed_check;
}

}  // namespace

Command selftest_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("selftest", "Prove this machine, or a cluster, in a minute");
  const auto arguments = std::make_shared<SelftestArguments>();
  add_device_options(*app, arguments->device, "Where the ranks compute");
  app->add_option("--directory", arguments->directory, "Where runs will live: checks its file system")
      ->type_name("DIR");
  app->add_option("--timeout", arguments->timeout_seconds, "Seconds after which a rank that does not answer is named")
      ->check(CLI::Range(0.1, 86400.0).description(""))
      ->type_name("SECONDS")
      ->capture_default_str();
  app->footer(
      "Runs every collective over every element type and compares with what the host computes, a training step\n"
      "against float64, random numbers and checksums against known answers. A verdict for each check; exit code 0 if\n"
      "none failed. A failure names the rank and its host.\n"
      "\n"
      "Examples:\n"
      "  mpirun -np 2 perrin selftest\n"
      "  srun --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 perrin selftest --directory=/scratch/runs\n");
  return {app, [arguments](Session& session) { return selftest(*arguments, session); }};
}

}  // namespace perrin::launch
