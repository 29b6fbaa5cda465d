#include "data/prepare.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "data/source/equal_pictures.hpp"
#include "data/source/open_source.hpp"
#include "launch/commands/command.hpp"
#include "launch/usage_error.hpp"

namespace perrin::launch {
namespace {

struct PrepareArguments {
  std::filesystem::path input;
  std::string class_names, resolution;
  data::SourceOptions source;
  data::TransformOptions transform;
  data::OnError on_error = data::OnError::fail;
  std::uint64_t held_out = 0;
  data::PrepareOptions options;
};

const std::map<std::string, data::Subset> kSubsets{{"train", data::Subset::train}, {"test", data::Subset::test}};
const std::map<std::string, data::CifarLabels> kCifarLabels{{"fine", data::CifarLabels::fine},
                                                            {"coarse", data::CifarLabels::coarse}};
const std::map<std::string, data::OnError> kOnErrors{{"fail", data::OnError::fail}, {"skip", data::OnError::skip}};
const std::map<std::string, data::Layout> kLayouts{{"nchw", data::Layout::nchw}, {"nhwc", data::Layout::nhwc}};
const std::map<std::string, data::Crop> kCrops{
    {"center", data::Crop::center}, {"center-wide", data::Crop::center_wide}, {"adm", data::Crop::adm}};
const std::map<std::string, data::Alpha> kAlphas{{"refuse", data::Alpha::refuse},
                                                 {"drop", data::Alpha::drop},
                                                 {"black", data::Alpha::black},
                                                 {"white", data::Alpha::white}};

std::vector<std::string> split_at_commas(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

/// "64", or "512x384" as width and height.
void read_resolution(const std::string& text, data::TransformOptions& transform) {
  const std::size_t cross = text.find('x');
  const auto read = [&text](std::string_view digits) {
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value == 0) {
      throw UsageError(fmt::format("--resolution: '{}' is neither N nor WIDTHxHEIGHT", text));
    }
    return value;
  };
  transform.width = read(std::string_view(text).substr(0, cross));
  transform.height = cross == std::string::npos ? transform.width : read(std::string_view(text).substr(cross + 1));
}

data::Transform transform_of(const PrepareArguments& arguments) {
  data::TransformOptions options = arguments.transform;
  if (!arguments.resolution.empty()) read_resolution(arguments.resolution, options);
  try {
    return data::Transform(options);
  } catch (const std::invalid_argument& contradiction) {
    throw UsageError(contradiction.what());
  }
}

/// A counter on the last line of a terminal; nothing elsewhere.
data::PrepareProgress progress_on_terminal() {
  if (::isatty(STDERR_FILENO) != 1) return {};
  return [](std::uint64_t done, std::uint64_t total) {
    fmt::print(stderr, "\r{}/{} images{}", done, total, done == total ? "\n" : "");
    std::fflush(stderr);
  };
}

void write(const data::ImageSource& source, const data::PrepareOptions& options) {
  const data::PrepareOutcome outcome = data::prepare(source, options, progress_on_terminal());
  const data::Manifest& manifest = outcome.manifest;
  spdlog::info("{}: {} images of {}x{}x{} in {} shard{}, fingerprint {}{}", options.output.string(), manifest.n,
               manifest.shape.channels, manifest.shape.height, manifest.shape.width, manifest.shards.size(),
               manifest.shards.size() == 1 ? "" : "s", data::fingerprint(manifest).substr(0, 12),
               outcome.was_there ? " (was there already)" : "");
}

/// Names the first few, counts them all.
void report_skipped(const std::vector<std::string>& skipped, std::uint64_t kept) {
  constexpr std::size_t kNamed = 10;
  for (std::size_t i = 0; i < std::min(kNamed, skipped.size()); ++i) spdlog::warn("skipped: {}", skipped[i]);
  if (!skipped.empty()) spdlog::warn("{} of {} images were skipped", skipped.size(), skipped.size() + kept);
}

ExitCode prepare(const PrepareArguments& arguments) {
  data::SourceOptions source_options = arguments.source;
  source_options.class_names = split_at_commas(arguments.class_names);
  const data::Transform transform = transform_of(arguments);
  const data::EqualPictures source(data::open_source(arguments.input, source_options), transform, arguments.on_error);
  report_skipped(source.skipped(), source.size());
  if (arguments.held_out == 0) {
    write(source, arguments.options);
    return ExitCode::ok;
  }
  if (arguments.held_out >= source.size()) {
    throw UsageError(
        fmt::format("--held-out {} leaves nothing of {} images to train on", arguments.held_out, source.size()));
  }
  const auto [held_out, train] = source.hold_out(arguments.held_out, arguments.options.shuffle_seed);
  data::PrepareOptions options = arguments.options;
  options.output = arguments.options.output / "train";
  write(train, options);
  options.output = arguments.options.output / "heldout";
  write(held_out, options);
  return ExitCode::ok;
}

}  // namespace

Command prepare_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("prepare", "Convert images into a dataset of HDF5 shards");
  const auto arguments = std::make_shared<PrepareArguments>();
  app->add_option("PATH,--images", arguments->input,
                  "Folder or zip archive of PNG or JPEG images (classes are its folders, or those of dataset.json), "
                  ".npz archive or HDF5 file of arrays, folder or archive (.tar.gz) of CIFAR's binary version or one "
                  "of its .bin files, or IDX "
                  "file of images, plain or .gz; recognised by its contents")
      ->required()
      ->type_name("PATH");
  app->add_option("--labels", arguments->source.labels, "IDX file of the labels of an IDX file, plain or .gz")
      ->type_name("FILE");
  app->add_option("--subset", arguments->source.subset, "Of CIFAR: train (default) or test")
      ->transform(CLI::CheckedTransformer(kSubsets))
      ->type_name("train|test");
  app->add_option("--cifar-labels", arguments->source.cifar_labels, "Of CIFAR-100: fine (default) or coarse")
      ->transform(CLI::CheckedTransformer(kCifarLabels))
      ->type_name("fine|coarse");
  app->add_option("--images-key", arguments->source.arrays.images_key, "Name of the array of images, if it is unusual")
      ->type_name("NAME");
  app->add_option("--labels-key", arguments->source.arrays.labels_key, "Name of the array of labels, if it is unusual")
      ->type_name("NAME");
  app->add_option("--layout", arguments->source.arrays.layout, "Axes of the array of images, if they are not plain")
      ->transform(CLI::CheckedTransformer(kLayouts))
      ->type_name("nchw|nhwc");
  app->add_option("--output", arguments->options.output, "Folder of the dataset; it appears when it is whole")
      ->required()
      ->type_name("DIR");
  app->add_option("--class-names", arguments->class_names, "Names of label 0, 1, ..., separated by commas")
      ->type_name("A,B,...");
  app->add_option("--on-error", arguments->on_error,
                  "Images that cannot be decoded or are too small: fail (default), or skip and count them; every image "
                  "is then decoded twice")
      ->transform(CLI::CheckedTransformer(kOnErrors))
      ->type_name("fail|skip");
  app->add_option("--held-out", arguments->held_out,
                  "So many images, drawn by the seed, become DIR/heldout, the others DIR/train; 0: all become DIR")
      ->capture_default_str();
  app->add_option("--resolution", arguments->resolution, "Size of the images after --crop, in pixels")
      ->type_name("N|WxH");
  app->add_option("--crop", arguments->transform.crop,
                  "center: the middle square, Lanczos; center-wide: the middle of the wanted aspect, Lanczos, black "
                  "bars; adm: halved, bicubic, the middle square, as usual for ImageNet")
      ->transform(CLI::CheckedTransformer(kCrops))
      ->type_name("center|center-wide|adm");
  app->add_option("--channels", arguments->transform.channels, "1: grey, 3: RGB; as they are if left out")
      ->type_name("1|3");
  app->add_option("--alpha", arguments->transform.alpha,
                  "What lies behind transparent images: black or white; drop: forget it; refuse (default)")
      ->transform(CLI::CheckedTransformer(kAlphas))
      ->type_name("refuse|drop|black|white");
  app->add_option("--shard-images", arguments->options.shard_images, "Images in a shard; 0: as many as 1 GiB holds")
      ->capture_default_str();
  app->add_option("--seed", arguments->options.shuffle_seed, "Of the order in which images are stored")
      ->capture_default_str();
  app->add_option("--pad", arguments->options.pad, "Add zeros around each image up to this height and width; 0: none")
      ->capture_default_str();
  app->footer(
      "Example:\n"
      "  perrin prepare cifar-10-binary.tar.gz --output datasets/cifar10/train\n"
      "  perrin prepare photos/ --output datasets/photos --crop center --resolution 64 --channels 3\n"
      "  perrin prepare --images train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz --output "
      "datasets/fashion-mnist/train\n");
  return {app, [arguments](Session&) { return prepare(*arguments); }};
}

}  // namespace perrin::launch
