#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "launch/commands/bench_checkpoint.hpp"
#include "launch/commands/bench_data.hpp"
#include "launch/commands/bench_operators.hpp"
#include "launch/commands/bench_optimizer.hpp"
#include "launch/commands/bench_overlap.hpp"
#include "launch/commands/bench_sample.hpp"
#include "launch/commands/bench_step.hpp"
#include "launch/commands/command.hpp"
#include "launch/commands/median.hpp"
#include "launch/device.hpp"
#include "launch/device_options.hpp"
#include "launch/usage_error.hpp"
#include "launch/world_options.hpp"
#include "trainer/compute_stream.hpp"

namespace perrin::launch {
namespace {

struct BenchArguments {
  std::string sizes = "100kB,1MB,10MB,143MB";
  std::string operations = "all_reduce,reduce_scatter,all_gather,all_to_all,broadcast";
  int repeat = 20;
  DeviceOptions device;
  bool json = false;
};

/// One collective as nccl-tests measures it: `bytes` is the larger buffer of a rank, and the bus factor makes of bytes
/// a second what every link of a rank carries (its doc/PERFORMANCE.md).
struct Operation {
  std::string_view name;
  double (*bus_factor)(double ranks);
  comm::Work (*start)(comm::Communicator& on, float* whole, float* part, std::size_t elements, void* stream);
};

constexpr auto kFloat32 = comm::DataType::float32;

std::size_t part_of(const comm::Communicator& on, std::size_t elements) {
  return elements / static_cast<std::size_t>(on.size());
}

const std::array kOperations = {
    Operation{"all_reduce", [](double n) { return 2 * (n - 1) / n; },
              [](comm::Communicator& on, float* whole, float*, std::size_t elements, void* stream) {
                return on.all_reduce(whole, elements, kFloat32, comm::ReduceOp::sum, stream);
              }},
    Operation{"reduce_scatter", [](double n) { return (n - 1) / n; },
              [](comm::Communicator& on, float* whole, float* part, std::size_t elements, void* stream) {
                return on.reduce_scatter(whole, part, part_of(on, elements), kFloat32, comm::ReduceOp::sum, stream);
              }},
    Operation{"all_gather", [](double n) { return (n - 1) / n; },
              [](comm::Communicator& on, float* whole, float* part, std::size_t elements, void* stream) {
                return on.all_gather(part, whole, part_of(on, elements), kFloat32, stream);
              }},
    Operation{"all_to_all", [](double n) { return (n - 1) / n; },
              [](comm::Communicator& on, float* whole, float* part, std::size_t elements, void* stream) {
                return on.all_to_all(whole, part, part_of(on, elements), kFloat32, stream);
              }},
    Operation{"broadcast", [](double) { return 1.0; },
              [](comm::Communicator& on, float* whole, float*, std::size_t elements, void* stream) {
                return on.broadcast(whole, elements, kFloat32, 0, stream);
              }},
};

std::vector<std::string> split_at_commas(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t from = 0; from <= text.size();) {
    const std::size_t comma = std::min(text.find(',', from), text.size());
    parts.push_back(text.substr(from, comma - from));
    from = comma + 1;
  }
  return parts;
}

/// "100kB" and "1MB" are powers of ten, as in nccl-tests' tables and on network cards.
std::size_t bytes_of(const std::string& text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view unit(end, text.data() + text.size());
  const double scale = unit == "B" ? 1 : unit == "kB" ? 1e3 : unit == "MB" ? 1e6 : unit == "GB" ? 1e9 : 0;
  if (error != std::errc{} || scale == 0 || !(number * scale >= 4 && number * scale <= 1e12))
    throw UsageError("--sizes are like 100kB,1MB,1.5GB (B, kB, MB or GB; at least 4B), not '" + text + "'");
  return static_cast<std::size_t>(number * scale);
}

const Operation& operation_called(const std::string& name) {
  const auto found =
      std::find_if(kOperations.begin(), kOperations.end(), [&](const Operation& o) { return o.name == name; });
  if (found == kOperations.end())
    throw UsageError("'" + name +
                     "' is no collective; --ops takes all_reduce, reduce_scatter, all_gather, all_to_all, "
                     "broadcast");
  return *found;
}

/// Median over the repetitions of the slowest rank's seconds.
double median_seconds(const Operation& operation, std::size_t elements, int repeat, comm::World& world,
                      at::Device device) {
  comm::Communicator& on = world.gradients();
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  const at::Tensor whole = at::ones({static_cast<std::int64_t>(elements)}, options), part = at::ones_like(whole);
  void* stream = trainer::compute_stream(device);
  std::vector<double> seconds;
  constexpr int kWarmUps = 2;
  for (int i = -kWarmUps; i < repeat; ++i) {
    world.control().barrier().wait();
    const auto begun = std::chrono::steady_clock::now();
    operation.start(on, whole.mutable_data_ptr<float>(), part.mutable_data_ptr<float>(), elements, stream).wait();
    const double own = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    const double slowest = world.control().all_reduce_value(own, comm::ReduceOp::max);
    if (i >= 0) seconds.push_back(slowest);
  }
  return median(std::move(seconds));
}

ExitCode bench_comm(const BenchArguments& arguments, Session& session) {
  std::vector<std::size_t> sizes;
  for (const std::string& size : split_at_commas(arguments.sizes)) sizes.push_back(bytes_of(size));
  std::vector<Operation> operations;
  for (const std::string& name : split_at_commas(arguments.operations)) operations.push_back(operation_called(name));
  if (session.size() < 2)
    throw UsageError("one rank has nobody to talk to; start it as `mpirun -np 2 perrin bench comm`");

  const trainer::DistributedConfig config = arguments.device.config();
  comm::World& world = session.start_world(world_options(config, /*require_all_slurm_tasks=*/true));
  const at::Device device = bind_device(config, world);
  const auto ranks = static_cast<std::size_t>(world.size());
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  if (world.is_root() && !arguments.json)
    fmt::print("{} ranks over {}, float32, median of {}\n{:<16}{:>14}{:>12}{:>14}{:>14}\n", ranks,
               world.gradients().backend(), arguments.repeat, "collective", "bytes", "ms", "algbw GB/s", "busbw GB/s");
  for (const Operation& operation : operations) {
    for (const std::size_t size : sizes) {
      const std::size_t elements = std::max(size / sizeof(float) / ranks, std::size_t{1}) * ranks;  // whole parts
      const double seconds = median_seconds(operation, elements, arguments.repeat, world, device);
      const double bytes = static_cast<double>(elements * sizeof(float)), algbw = bytes / seconds / 1e9;
      const double busbw = algbw * operation.bus_factor(static_cast<double>(ranks));
      if (!world.is_root()) continue;
      rows.push_back({{"collective", operation.name},
                      {"bytes", elements * sizeof(float)},
                      {"seconds", seconds},
                      {"algbw_gb_per_second", algbw},
                      {"busbw_gb_per_second", busbw}});
      if (!arguments.json)
        fmt::print("{:<16}{:>14}{:>12.3f}{:>14.2f}{:>14.2f}\n", operation.name, elements * sizeof(float), seconds * 1e3,
                   algbw, busbw);
    }
  }
  if (world.is_root() && arguments.json) {
    const nlohmann::ordered_json report = {
        {"ranks", ranks}, {"backend", world.gradients().backend()}, {"repeat", arguments.repeat}, {"results", rows}};
    fmt::print("{}\n", report.dump(2));
  }
  return ExitCode::ok;
}

}  // namespace

Command bench_command(CLI::App& program) {
  CLI::App* app =
      program.add_subcommand("bench", "Measure training, sampling, this machine, its network and its storage");
  CLI::App* comm = app->add_subcommand("comm", "Bandwidth of the collectives among the ranks");
  app->require_subcommand(1);
  app->footer(
      "Examples:\n"
      "  perrin bench step small --breakdown\n"
      "  perrin bench sample\n"
      "  perrin bench optimizer\n"
      "  mpirun -np 2 perrin bench comm\n"
      "  mpirun -np 2 perrin bench overlap\n"
      "  perrin bench data\n"
      "  perrin bench checkpoint\n"
      "  perrin bench operators\n");
  const auto arguments = std::make_shared<BenchArguments>();
  comm->add_option("--sizes", arguments->sizes, "Bytes of the larger buffer of a rank")
      ->type_name("SIZE,...")
      ->capture_default_str();
  comm->add_option("--ops", arguments->operations, "Collectives")->type_name("NAME,...")->capture_default_str();
  comm->add_option("--repeat", arguments->repeat, "Repetitions, of which the median counts")
      ->check(CLI::Range(1, 100'000).description(""))
      ->type_name("N")
      ->capture_default_str();
  add_device_options(*comm, arguments->device, "Where the buffers are");
  comm->add_flag("--json", arguments->json, "Print JSON");
  comm->footer(
      "algbw is bytes over the time of the slowest rank; busbw is what each rank's link carries, as nccl-tests "
      "counts:\n"
      "2 (n-1)/n of algbw for all_reduce, (n-1)/n for reduce_scatter, all_gather and all_to_all, algbw for broadcast.\n"
      "\n"
      "Example:\n"
      "  mpirun -np 2 perrin bench comm --sizes 1MB,143MB --ops all_reduce\n");
  const std::vector<Command> others = {add_bench_step(*app),      add_bench_sample(*app),  add_bench_optimizer(*app),
                                       add_bench_operators(*app), add_bench_overlap(*app), add_bench_data(*app),
                                       add_bench_checkpoint(*app)};
  return {app, [arguments, comm, others](Session& session) {
            if (comm->parsed()) return bench_comm(*arguments, session);
            return std::find_if(others.begin(), others.end(), [](const Command& c) { return c.options->parsed(); })
                ->run(session);
          }};
}

}  // namespace perrin::launch
