#include <ATen/ATen.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>

#include "launch/commands/command.hpp"
#include "launch/commands/inference.hpp"
#include "launch/config/key_table.hpp"
#include "launch/device.hpp"
#include "launch/usage_error.hpp"
#include "launch/world_options.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/evaluate/sample_images.hpp"
#include "trainer/interchange/grid.hpp"
#include "trainer/interchange/png.hpp"

namespace perrin::launch {
namespace {

struct SampleArguments {
  InferenceArguments source;
  std::string grid, sampler, steps, spacing, eta, guidance, classes, clip, seed;
  std::filesystem::path output;  ///< a PNG file, or a folder for one of each image
  bool progression = false;
  std::vector<Override> overrides;  ///< --sample.key=value
};

/// The options as keys of [sample]: they are checked like the configuration, and what is not given is the run's own.
std::vector<Override> overrides_of(const SampleArguments& arguments) {
  std::vector<Override> overrides = arguments.overrides;
  for (const Override& given : overrides) {
    if (!given.name.starts_with("sample."))
      throw UsageError("sample changes keys of [sample] only; '" + given.name + "' is the run's own");
  }
  if (!arguments.grid.empty()) {
    const auto cross = arguments.grid.find('x');
    if (cross == std::string::npos)
      throw UsageError("--grid is ROWSxCOLUMNS, such as 8x8, not '" + arguments.grid + "'");
    overrides.push_back({"sample.rows", arguments.grid.substr(0, cross)});
    overrides.push_back({"sample.columns", arguments.grid.substr(cross + 1)});
  }
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) overrides.push_back({key, value});
  };
  add("sample.sampler", arguments.sampler);
  add("sample.steps", arguments.steps);
  add("sample.spacing", arguments.spacing);
  add("sample.eta", arguments.eta);
  add("sample.guidance", arguments.guidance);
  if (!arguments.classes.empty()) add("sample.classes", "[" + arguments.classes + "]");
  add("sample.clip", arguments.clip);
  add("sample.seed", arguments.seed);
  return overrides;
}

std::string sampler_name(const trainer::Config& config) {
  const std::string name = std::get<std::string>(find_key("sample.sampler")->get(config));
  const std::int64_t steps = config.sample.steps == 0 ? config.diffusion.timesteps : config.sample.steps;
  return fmt::format("{} in {} steps", name, steps);
}

/// Options that would change nothing are refused, not passed over.
void refuse_options_without_effect(const SampleArguments& arguments, const trainer::SampleConfig& sample) {
  if (!arguments.eta.empty() && sample.sampler != trainer::Sampler::ddim)
    throw UsageError("--eta is an option of the sampler ddim");
  if (!arguments.spacing.empty() && sample.sampler == trainer::Sampler::heun)
    throw UsageError("--spacing chooses timesteps, and the sampler heun has noise levels of its own");
}

bool is_picture(const std::filesystem::path& output) { return output.extension() == ".png"; }

/// A folder with other images in it would be taken for one set of samples.
void refuse_folder_in_use(const std::filesystem::path& output) {
  if (!is_picture(output) && std::filesystem::exists(output) && !std::filesystem::is_empty(output))
    throw UsageError("--output " + output.string() + " is there and not empty; name a new folder, or a .png file");
}

/// One file for each image: 000000.png, 000001.png, ...
void write_each(const std::filesystem::path& folder, const at::Tensor& images) {
  for (std::int64_t i = 0; i < images.size(0); ++i)
    trainer::write_png(folder / fmt::format("{:06}.png", i), trainer::make_picture(images[i]));
}

/// Beside the grid, or the folder: grid-progression.png.
std::filesystem::path progression_file(const std::filesystem::path& output) {
  const std::filesystem::path base = (output / "").parent_path();  // without a trailing slash
  return base.parent_path() / ((is_picture(base) ? base.stem() : base.filename()).string() + "-progression.png");
}

void write_progression(const Predictor& predictor, const StoredRun& run, at::Device device,
                       const std::filesystem::path& file) {
  constexpr std::int64_t kMostImages = 8, kPictures = 10;
  const trainer::SampleConfig& sample = run.config.sample;
  const std::int64_t images = std::min(sample.rows * sample.columns, kMostImages);
  const at::Tensor pictures = trainer::sample_progression(predictor.model, run.config, run.manifest.origin.image_shape,
                                                          device, images, kPictures);
  trainer::write_png(file, trainer::make_grid(pictures, images, kPictures));
  spdlog::info("{}: how the first {} came to be, from left to right", file.string(), images);
}

ExitCode sample(const SampleArguments& arguments, Session& session) {
  refuse_folder_in_use(arguments.output);
  const StoredRun run = find_run(arguments.source, overrides_of(arguments));
  refuse_options_without_effect(arguments, run.config.sample);
  require_writable_folder(arguments.output.parent_path());
  comm::World& world = session.start_world(world_options(run.config.distributed, /*require_all_slurm_tasks=*/false));
  const at::Device device = bind_device(run.config.distributed, world);
  const Predictor predictor = load_predictor(run, weights_of(arguments.source), world, device);
  const at::Tensor images =
      *trainer::sample_images(predictor.model, run.config, run.manifest.origin.image_shape, world.control(), device);
  if (world.is_root()) {
    make_writable_folder(is_picture(arguments.output) ? std::filesystem::absolute(arguments.output).parent_path()
                                                      : arguments.output);
    if (is_picture(arguments.output))
      trainer::write_png(arguments.output,
                         trainer::make_grid(images, run.config.sample.rows, run.config.sample.columns));
    else
      write_each(arguments.output, images);
    spdlog::info("{}: {} images by {} from {} (step {})", arguments.output.string(), images.size(0),
                 sampler_name(run.config), predictor.stored.weights_name, run.manifest.progress.step);
    if (arguments.progression) write_progression(predictor, run, device, progression_file(arguments.output));
  }
  return ExitCode::ok;
}

}  // namespace

Command sample_command(CLI::App& program, const std::vector<Override>& overrides) {
  CLI::App* app = program.add_subcommand("sample", "Draw images from a trained model");
  const auto arguments = std::make_shared<SampleArguments>();
  arguments->overrides = overrides;
  add_source_options(*app, arguments->source);
  app->add_option("--output", arguments->output,
                  "PNG file of the grid, or a folder for one PNG file of each image; made if need be")
      ->required()
      ->type_name("FILE.png|DIR");
  app->add_option("--grid", arguments->grid, "Rows and columns (default: sample.rows and sample.columns of the run)")
      ->type_name("8x8");
  app->add_option("--sampler", arguments->sampler, "How noise becomes an image (default: sample.sampler of the run)")
      ->type_name("ancestral|ddim|dpm++2m|heun");
  app->add_option("--steps", arguments->steps,
                  "Steps of the sampler; 0: every timestep (default: sample.steps of the run)")
      ->type_name("N");
  app->add_option("--spacing", arguments->spacing, "Which timesteps they visit (default: sample.spacing of the run)")
      ->type_name("auto|leading|linspace|trailing|quad|logsnr");
  app->add_option("--eta", arguments->eta, "Noise of DDIM, 0 to 1 (default: sample.eta of the run)")->type_name("X");
  app->add_option("--class", arguments->classes,
                  "Class of the images, or several to take in turn (default: sample.classes of the run)")
      ->type_name("K[,K...]");
  app->add_option("--guidance", arguments->guidance,
                  "Classifier-free guidance; 1: none (default: sample.guidance of the run)")
      ->type_name("X");
  app->add_option("--clip", arguments->clip, "Range of predicted images (default: sample.clip of the run)")
      ->type_name("none|static|dynamic");
  app->add_option("--seed", arguments->seed,
                  "Key of the noise that samples start from (default: sample.seed of the run)")
      ->type_name("N");
  app->add_flag("--progression", arguments->progression,
                "Write FILE-progression.png too: what the network took the first images for, from noise to image");
  add_device_options(*app, arguments->source);
  app->footer(
      "Image i depends on the seed and i alone, not on the number of ranks, nor on the CPU on sample.batch_size. "
      "Every\n"
      "other key of [sample] may be given as --sample.key=value.\n"
      "\n"
      "Examples:\n"
      "  perrin sample runs/quickstart --grid 8x8 --steps 100 --output samples.png\n"
      "  perrin sample runs/classes --class 3,5 --guidance 2 --sampler dpm++2m --steps 20 --output guided.png\n"
      "  perrin sample exports/quickstart --grid 32x32 --output samples/  # one PNG file of each image\n"
      "  perrin sample quickstart.safetensors --grid 4x4 --progression --output grid.png\n");
  return {app, [arguments](Session& session) { return sample(*arguments, session); }};
}

}  // namespace perrin::launch
