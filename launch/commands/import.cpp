#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "data/data_error.hpp"
#include "data/manifest.hpp"
#include "data/sample_order.hpp"
#include "launch/commands/command.hpp"
#include "launch/commands/inference.hpp"
#include "launch/config/check.hpp"
#include "launch/config/resolved.hpp"
#include "launch/usage_error.hpp"
#include "launch/versions.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/begin_run.hpp"

namespace perrin::launch {
namespace {

struct ImportArguments {
  InferenceArguments source;
  std::filesystem::path output;
  std::vector<Override> overrides;
};

/// Of the dataset to train on; empty where none is named. @throws data::DataError, ConfigError if it does not fit
std::string dataset_fingerprint(const StoredRun& run) {
  const std::string& folder = run.config.data.train;
  if (folder.empty()) return "";
  const data::Manifest manifest = data::read_manifest(folder);
  const data::ImageShape& shape = run.manifest.origin.image_shape;
  if (manifest.shape != shape)
    throw data::DataError(folder, fmt::format("has images of another shape than the model's {}x{}x{}; prepare them in "
                                              "that shape",
                                              shape.channels, shape.height, shape.width));
  check_classes(run.config.model, manifest, folder, "command line");
  return data::fingerprint(manifest);
}

ExitCode import_model(const ImportArguments& arguments, const Session& session) {
  if (session.size() > 1) throw UsageError("import is the work of one process; start it without mpirun");
  std::vector<Override> overrides = arguments.overrides;
  overrides.push_back({"run.directory", arguments.output.string()});
  const StoredRun run = find_run(arguments.source, overrides);
  if (std::filesystem::exists(arguments.output))
    throw data::DataError(arguments.output,
                          "exists already; nothing was overwritten. Choose another folder or remove this one");
  const std::string fingerprint = dataset_fingerprint(run);
  require_writable_folder(arguments.output);
  const trainer::StoredModel stored = load_weights(run, weights_of(arguments.source));
  trainer::begin_run(run.config,
                     {.config = resolved_toml(run.config),
                      .dataset_fingerprint = fingerprint,
                      .image_shape = run.manifest.origin.image_shape,
                      .sample_order = std::string(data::SampleOrder::kAlgorithm),
                      .ema_decays = run.config.ema.decays,
                      .power_sigmas = run.config.ema.power_sigmas,
                      .program = versions(", ")},
                     stored.weights);
  spdlog::info("{}: a run at step 0 with the weights of {} ({})", arguments.output.string(), run.checkpoint.string(),
               stored.weights_name);
  if (fingerprint.empty())
    spdlog::info("it can be sampled from and measured; to train it on, import it with --data.train=DATASET");
  else
    spdlog::info("`perrin train {}` trains it on", (arguments.output / "config.toml").string());
  return ExitCode::ok;
}

}  // namespace

Command import_command(CLI::App& program, const std::vector<Override>& overrides) {
  CLI::App* app = program.add_subcommand("import", "Begin a run with a model made elsewhere");
  const auto arguments = std::make_shared<ImportArguments>();
  arguments->overrides = overrides;
  arguments->source.device.clear();
  add_source_options(*app, arguments->source);
  app->add_option("--output", arguments->output, "New run folder")->required()->type_name("RUN");
  app->footer(
      "The run is at step 0: its weights and averages are the model's, Adam's moments are 0. Its config.toml is that "
      "of\n"
      "the model; any other key may be given, --section.key=value, and data.train must be where the run is to be\n"
      "trained on. The weights must be safetensors; what perrin cannot follow is refused by the name of the key.\n"
      "\n"
      "Examples:\n"
      "  perrin import downloads/ddpm-cifar10-32 --output runs/cifar10\n"
      "  perrin import downloads/ddpm-cat-256 --output runs/dogs --data.train=datasets/dogs --optimizer.lr=1e-5\n"
      "  perrin train runs/dogs/config.toml\n");
  return {app, [arguments](Session& session) { return import_model(*arguments, session); }};
}

}  // namespace perrin::launch
