#include <fmt/format.h>

#include <charconv>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "launch/commands/command.hpp"
#include "launch/commands/conversion.hpp"
#include "launch/usage_error.hpp"

namespace perrin::launch {
namespace {

struct PrepareArguments {
  std::string resolution, held_out;
  Conversion conversion;
};

const std::map<std::string, data::Subset> kSubsets{{"train", data::Subset::train}, {"test", data::Subset::test}};
const std::map<std::string, data::CifarLabels> kCifarLabels{{"fine", data::CifarLabels::fine},
                                                            {"coarse", data::CifarLabels::coarse}};
const std::map<std::string, bool> kSkipOnError{{"fail", false}, {"skip", true}};
const std::map<std::string, data::Crop> kCrops{
    {"center", data::Crop::center}, {"center-wide", data::Crop::center_wide}, {"adm", data::Crop::adm}};
const std::map<std::string, data::Alpha> kAlphas{{"refuse", data::Alpha::refuse},
                                                 {"drop", data::Alpha::drop},
                                                 {"black", data::Alpha::black},
                                                 {"white", data::Alpha::white}};

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

/// "5000", or "test".
HeldOut read_held_out(const std::string& text) {
  if (text == "test") return {.test_set = true};
  HeldOut held_out;
  const char* end = text.data() + text.size();
  const auto [after, error] = std::from_chars(text.data(), end, held_out.drawn);
  if (error != std::errc() || after != end || held_out.drawn == 0)
    throw UsageError(fmt::format("--held-out: '{}' is neither a number of images nor 'test'", text));
  return held_out;
}

ExitCode prepare(const PrepareArguments& arguments, Session& session) {
  Conversion conversion = arguments.conversion;
  if (!arguments.resolution.empty()) read_resolution(arguments.resolution, conversion.transform);
  if (!arguments.held_out.empty()) conversion.held_out = read_held_out(arguments.held_out);
  return convert(conversion, session);
}

}  // namespace

Command prepare_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("prepare", "Convert images into a dataset of HDF5 shards");
  const auto arguments = std::make_shared<PrepareArguments>();
  Conversion& conversion = arguments->conversion;
  app->add_option("PATH,--images", conversion.input,
                  "Folder or zip archive of PNG or JPEG images (classes are its folders, or those of dataset.json), "
                  ".npz archive or HDF5 file of arrays (also a folder or a quoted pattern of them), folder of MNIST's "
                  "four files, folder or archive (.tar.gz) of CIFAR's binary version or one of its .bin files, or IDX "
                  "file of images, plain or .gz; recognised by its contents")
      ->required()
      ->type_name("PATH");
  app->add_option("--subset", conversion.source.subset, "Of CIFAR or MNIST's four files: train (default) or test")
      ->transform(CLI::CheckedTransformer(kSubsets))
      ->type_name("train|test");
  app->add_option("--cifar-labels", conversion.source.cifar_labels, "Of CIFAR-100: fine (default) or coarse")
      ->transform(CLI::CheckedTransformer(kCifarLabels))
      ->type_name("fine|coarse");
  add_array_options(*app, conversion.source);
  app->add_option("--output", conversion.options.output, "Folder of the dataset; it appears when it is whole")
      ->required()
      ->type_name("DIR");
  app->add_option("--on-error", conversion.skip_unfit,
                  "Images that cannot be decoded or are too small: fail (default), or skip and count them; every image "
                  "is then decoded twice")
      ->transform(CLI::CheckedTransformer(kSkipOnError))
      ->type_name("fail|skip");
  app->add_option(
         "--held-out", arguments->held_out,
         "So many images, drawn by the seed, or the test set of a source that has one, become DIR/heldout, the "
         "others DIR/train")
      ->type_name("N|test");
  app->add_option("--resolution", arguments->resolution, "Size of the images after --crop, in pixels")
      ->type_name("N|WxH");
  app->add_option("--crop", conversion.transform.crop,
                  "center: the middle square, Lanczos; center-wide: the middle of the wanted aspect, Lanczos, black "
                  "bars; adm: halved, bicubic, the middle square, as usual for ImageNet")
      ->transform(CLI::CheckedTransformer(kCrops))
      ->type_name("center|center-wide|adm");
  app->add_option("--channels", conversion.transform.channels, "1: grey, 3: RGB; as they are if left out")
      ->type_name("1|3");
  app->add_option("--alpha", conversion.transform.alpha,
                  "What lies behind transparent images: black or white; drop: forget it; refuse (default)")
      ->transform(CLI::CheckedTransformer(kAlphas))
      ->type_name("refuse|drop|black|white");
  add_storage_options(*app, conversion.options);
  app->add_option("--pad", conversion.options.pad, "Add zeros around each image up to this height and width; 0: none")
      ->capture_default_str();
  app->footer(
      "Example:\n"
      "  perrin prepare cifar-10-binary.tar.gz --output datasets/cifar10/train\n"
      "  perrin prepare fashion-mnist/ --held-out test --output datasets/fashion-mnist\n"
      "  mpirun -np 8 perrin prepare photos/ --output datasets/photos --crop center --resolution 64 --channels 3\n"
      "  perrin prepare --images train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz --output "
      "datasets/fashion-mnist/train\n");
  return {app, [arguments](Session& session) { return prepare(*arguments, session); }};
}

}  // namespace perrin::launch
