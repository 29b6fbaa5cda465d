#include "data/prepare.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <sstream>
#include <string>

#include "data/idx_source.hpp"
#include "launch/commands/command.hpp"

namespace perrin::launch {
namespace {

struct PrepareArguments {
  std::filesystem::path images, labels;
  std::string class_names;
  data::PrepareOptions options;
};

std::vector<std::string> split_at_commas(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

/// A counter on the last line of a terminal; nothing elsewhere.
data::PrepareProgress progress_on_terminal() {
  if (::isatty(STDERR_FILENO) != 1) return {};
  return [](std::uint64_t done, std::uint64_t total) {
    fmt::print(stderr, "\r{}/{} images{}", done, total, done == total ? "\n" : "");
    std::fflush(stderr);
  };
}

ExitCode prepare(const PrepareArguments& arguments) {
  const data::IdxSource source(arguments.images, arguments.labels, split_at_commas(arguments.class_names));
  const data::PrepareOutcome outcome = data::prepare(source, arguments.options, progress_on_terminal());
  const data::Manifest& manifest = outcome.manifest;
  spdlog::info("{}: {} images of {}x{}x{} in {} shard{}, fingerprint {}{}", arguments.options.output.string(),
               manifest.n, manifest.shape.channels, manifest.shape.height, manifest.shape.width, manifest.shards.size(),
               manifest.shards.size() == 1 ? "" : "s", data::fingerprint(manifest).substr(0, 12),
               outcome.was_there ? " (was there already)" : "");
  return ExitCode::ok;
}

}  // namespace

Command prepare_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("prepare", "Convert images into a dataset of HDF5 shards");
  const auto arguments = std::make_shared<PrepareArguments>();
  app->add_option("--images", arguments->images, "IDX file of uint8 images, plain or .gz")
      ->required()
      ->type_name("FILE");
  app->add_option("--labels", arguments->labels, "IDX file of their labels, plain or .gz")
      ->required()
      ->type_name("FILE");
  app->add_option("--output", arguments->options.output, "Folder of the dataset; it appears when it is whole")
      ->required()
      ->type_name("DIR");
  app->add_option("--class-names", arguments->class_names, "Names of label 0, 1, ..., separated by commas")
      ->type_name("A,B,...");
  app->add_option("--shard-images", arguments->options.shard_images, "Images in a shard; 0: as many as 1 GiB holds")
      ->capture_default_str();
  app->add_option("--seed", arguments->options.shuffle_seed, "Of the order in which images are stored")
      ->capture_default_str();
  app->add_option("--pad", arguments->options.pad, "Add zeros around each image up to this height and width; 0: none")
      ->capture_default_str();
  app->footer(
      "Example:\n"
      "  perrin prepare --images train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz --output "
      "datasets/fashion-mnist/train\n");
  return {app, [arguments](Session&) { return prepare(*arguments); }};
}

}  // namespace perrin::launch
