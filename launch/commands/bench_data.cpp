#include "launch/commands/bench_data.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "data/prepare.hpp"
#include "data/sha256.hpp"
#include "launch/commands/data_rates.hpp"
#include "launch/commands/image_option.hpp"
#include "launch/commands/temporary_folder.hpp"
#include "launch/usage_error.hpp"

namespace perrin::launch {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kShardImages = 65'536;  // several shards, so that finding the right one is measured too

struct DataArguments {
  fs::path dataset, make;
  std::string image = "3x32x32";
  std::uint64_t images = 200'000;
  std::vector<std::size_t> threads;
  std::uint64_t batch = 256;
  int rounds = 5;
  double seconds = 0.3;
  data::ReadMethod read = data::ReadMethod::mmap;
  bool json = false;
};

/// Images of noise, without labels.
class NoiseSource : public data::ImageSource {
 public:
  NoiseSource(std::uint64_t size, const data::ImageShape& shape) : size_(size), shape_(shape) {}

  std::uint64_t size() const override { return size_; }
  data::ImageShape shape() const override { return shape_; }
  std::int32_t label(std::uint64_t) const override { return data::kNoLabel; }
  std::vector<std::string> class_names() const override { return {}; }
  void read(std::uint64_t index, std::span<std::uint8_t> pixels) const override {
    std::uint64_t word = index * 0x9e3779b97f4a7c15 + 1;
    for (std::size_t i = 0; i < pixels.size(); i += sizeof(word)) {
      word = word * 0x5851f42d4c957f2d + 0x14057b7ef767814f;  // Knuth's MMIX
      const std::uint64_t mixed = word ^ std::rotl(word, 31);
      std::memcpy(pixels.data() + i, &mixed, std::min(sizeof(mixed), pixels.size() - i));
    }
  }
  std::string kind() const override { return "noise"; }
  std::string transform() const override { return "none"; }
  std::string digest() const override {
    return data::sha256_hex(fmt::format("noise {} {}x{}x{}", size_, shape_.channels, shape_.height, shape_.width));
  }

 private:
  std::uint64_t size_;
  data::ImageShape shape_;
};

/// Of one way to read, over the rounds, in images a second.
class Rates {
 public:
  void add(double rate) { rates_.insert(std::upper_bound(rates_.begin(), rates_.end(), rate), rate); }
  double median() const { return rates_[rates_.size() / 2]; }
  double slowest() const { return rates_.front(); }
  double fastest() const { return rates_.back(); }

 private:
  std::vector<double> rates_;
};

/// What was measured in one order by one number of threads. HDF5 has one thread always: its lock lets no more in.
struct Row {
  RateOptions options;
  Rates perrin, hdf5, memory;

  double against(const Rates& peer) const { return perrin.median() / peer.median(); }
};

std::vector<Row> planned_rows(const DataArguments& arguments) {
  std::vector<Row> rows;
  for (const ReadOrder order : {ReadOrder::random, ReadOrder::block, ReadOrder::sequential}) {
    for (const std::size_t threads : arguments.threads) {
      rows.push_back({.options = {.order = order,
                                  .batch = arguments.batch,
                                  .threads = threads,
                                  .time = std::chrono::duration<double>(arguments.seconds)},
                      .perrin = {},
                      .hdf5 = {},
                      .memory = {}});
    }
  }
  return rows;
}

/// All take turns, round after round, so that whatever else the machine does meets all of them.
void measure(std::vector<Row>& rows, const data::Dataset& dataset, int rounds) {
  // In this order: perrin opens shards without file locks, and HDF5 refuses that of a file that it has open with them.
  const ImageReader memory = memory_reader(dataset), hdf5 = hdf5_reader(dataset);
  std::vector<std::uint8_t> pixels(dataset.shape().bytes());
  for (std::uint64_t i = 0; i < dataset.size(); ++i) {  // into the page cache and into the mapping
    dataset.read(i, pixels);
    memory(i, 1, pixels);
  }
  for (int round = 0; round < rounds; ++round) {
    for (Row& row : rows) {
      row.perrin.add(perrin_rate(dataset, row.options));
      row.memory.add(peer_rate(memory, dataset, row.options));
      RateOptions one_thread = row.options;
      one_thread.threads = 1;
      row.hdf5.add(peer_rate(hdf5, dataset, one_thread));
    }
  }
}

void print_json(const Row& row, const data::Dataset& dataset, int rounds) {
  const std::string order(name_of(row.options.order));
  nlohmann::ordered_json json = {
      {"order", order},           {"threads", row.options.threads},         {"batch", row.options.batch},
      {"images", dataset.size()}, {"image_bytes", dataset.shape().bytes()}, {"rounds", rounds}};
  for (const auto& [name, rates] :
       {std::pair("perrin", &row.perrin), {"h5dread", &row.hdf5}, {"memcpy", &row.memory}}) {
    json[fmt::format("{}_per_second", name)] = rates->median();
    json[fmt::format("{}_per_second_slowest", name)] = rates->slowest();
    json[fmt::format("{}_per_second_fastest", name)] = rates->fastest();
  }
  json[fmt::format("ratio_{}_vs_h5dread", order)] = row.against(row.hdf5);
  json[fmt::format("ratio_{}_vs_memcpy", order)] = row.against(row.memory);
  fmt::print("{}\n", json.dump());
}

void print_table(const std::vector<Row>& rows, const data::Dataset& dataset, const DataArguments& arguments) {
  fmt::print(
      "{} images of {} bytes in {} shards, batches of {}, page cache warm; thousand images/s, median (slowest to "
      "fastest) of {} rounds\n{:<12}{:>7}{:>28}{:>28}{:>12}{:>28}{:>12}\n",
      dataset.size(), dataset.shape().bytes(), dataset.manifest().shards.size(), arguments.batch, arguments.rounds,
      "order", "threads", "perrin, verified", "H5Dread, 1 thread", "ratio", "memcpy", "ratio");
  const auto cell = [](const Rates& rates) {
    return fmt::format("{:.0f} ({:.0f} to {:.0f})", rates.median() / 1e3, rates.slowest() / 1e3, rates.fastest() / 1e3);
  };
  for (const Row& row : rows) {
    fmt::print("{:<12}{:>7}{:>28}{:>28}{:>12.2f}{:>28}{:>12.2f}\n", name_of(row.options.order), row.options.threads,
               cell(row.perrin), cell(row.hdf5), row.against(row.hdf5), cell(row.memory), row.against(row.memory));
  }
}

ExitCode bench_data(const DataArguments& arguments) {
  std::optional<TemporaryFolder> temporary;
  fs::path folder = arguments.dataset;
  if (folder.empty()) {
    const data::ImageShape shape = read_image_shape(arguments.image);
    folder = arguments.make.empty() ? temporary.emplace().path() / "noise" : arguments.make;
    data::prepare(NoiseSource(arguments.images, shape), {.output = folder, .shard_images = kShardImages});
  }
  const data::Dataset dataset(folder, {.read = arguments.read});
  if (dataset.size() < arguments.batch)
    throw UsageError(fmt::format("the dataset has {} images, no batch of {}; give a smaller --batch", dataset.size(),
                                 arguments.batch));
  std::vector<Row> rows = planned_rows(arguments);
  measure(rows, dataset, arguments.rounds);
  if (!arguments.json) print_table(rows, dataset, arguments);
  for (const Row& row : rows) {
    if (arguments.json) print_json(row, dataset, arguments.rounds);
  }
  return ExitCode::ok;
}

}  // namespace

Command add_bench_data(CLI::App& bench) {
  CLI::App* app = bench.add_subcommand("data", "Images a second from a dataset, beside H5Dread and memcpy");
  const auto arguments = std::make_shared<DataArguments>();
  const std::size_t cores = std::max(1U, std::thread::hardware_concurrency());
  arguments->threads = cores == 1 ? std::vector<std::size_t>{1} : std::vector<std::size_t>{1, cores};
  auto* dataset = app->add_option("DATASET", arguments->dataset,
                                  "A dataset that fits into memory (default: noise in a temporary folder)")
                      ->type_name("DIR");
  app->add_option("--make", arguments->make, "Folder for the noise, which then stays")
      ->type_name("DIR")
      ->excludes(dataset);
  app->add_option("--image", arguments->image, "Shape of the noise")
      ->type_name("CxHxW")
      ->capture_default_str()
      ->excludes(dataset);
  app->add_option("--images", arguments->images, "Images of noise")
      ->check(CLI::Range(1, 100'000'000).description(""))
      ->type_name("N")
      ->capture_default_str()
      ->excludes(dataset);
  app->add_option("--threads", arguments->threads, "Reader threads, one row each (default: 1 and one a core)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024).description(""))
      ->type_name("N,...");
  static const std::map<std::string, data::ReadMethod> kMethods = {{"mmap", data::ReadMethod::mmap},
                                                                   {"pread", data::ReadMethod::pread}};
  app->add_option("--read", arguments->read, "How perrin reads: mmap or pread (default: mmap)")
      ->transform(CLI::CheckedTransformer(kMethods).description(""))
      ->type_name("METHOD");
  app->add_option("--batch", arguments->batch, "Images in a batch")
      ->check(CLI::Range(1, 1'000'000).description(""))
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--rounds", arguments->rounds, "Rounds in which all take turns; medians count")
      ->check(CLI::Range(1, 10'000).description(""))
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--seconds", arguments->seconds, "Of each measurement in a round")
      ->check(CLI::Range(0.001, 600.0).description(""))
      ->type_name("S")
      ->capture_default_str();
  app->add_flag("--json", arguments->json, "Print JSON, one object a line");
  app->footer(
      "random: the loader of training, single images with their checksums; block and sequential: a batch of "
      "neighbours\n"
      "at a time, verified too. H5Dread reads the same by HDF5 alone, memcpy copies the same bytes in the same order,\n"
      "both unverified. bench/data.py adds a DataLoader of PyTorch.\n"
      "\n"
      "Example:\n"
      "  perrin bench data data/fashion-mnist/train --threads 1,2,4\n");
  return {app, [arguments](Session&) { return bench_data(*arguments); }};
}

}  // namespace perrin::launch
