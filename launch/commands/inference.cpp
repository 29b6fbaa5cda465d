#include "launch/commands/inference.hpp"

#include <ATen/ATen.h>

#include "launch/usage_error.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/precision.hpp"
#include "trainer/same_on_all_ranks.hpp"

namespace perrin::launch {
namespace {

StoredRun find_checkpoint(const InferenceArguments& arguments) {
  StoredRun run;
  run.checkpoint = trainer::resolve_checkpoint(arguments.source);
  run.manifest = trainer::read_manifest(run.checkpoint);
  trainer::require_weights(run.checkpoint, run.manifest, weights_of(arguments));
  return run;
}

StoredRun find_loose_model(const InferenceArguments& arguments) {
  if (arguments.weights != InferenceArguments().weights)
    throw UsageError("--weights chooses among those of a run, and " + arguments.source.string() +
                     " holds one set of weights; leave it out");
  StoredRun run;
  run.checkpoint = arguments.source;
  run.loose = read_loose_model(arguments.source);
  run.manifest.progress.step = run.loose->step;
  run.manifest.origin.config = run.loose->config;
  run.manifest.origin.image_shape = run.loose->shape;
  run.manifest.origin.dataset_fingerprint = run.loose->dataset_fingerprint;
  return run;
}

}  // namespace

trainer::WeightsChoice weights_of(const InferenceArguments& arguments) {
  return trainer::parse_weights_choice(arguments.weights);
}

void add_source_options(CLI::App& app, InferenceArguments& arguments) {
  app.add_option("SOURCE", arguments.source,
                 "A run folder (its newest checkpoint), a checkpoint folder, a diffusers folder, or a "
                 "file of `perrin export --single-file`")
      ->required()
      ->type_name("RUN|CHECKPOINT|MODEL");
  const auto refusal = [](const std::string& text) -> std::string {
    try {
      trainer::parse_weights_choice(text);
      return "";
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
  };
  app.add_option(
         "--weights", arguments.weights,
         "The first of ema.decays, the weights as the optimizer left them, an average as `perrin inspect` numbers "
         "them, or one of another relative width made from the run's snapshots")
      ->check(refusal)
      ->type_name("ema|raw|ema-N|posthoc-WIDTH")
      ->capture_default_str();
}

void add_device_options(CLI::App& app, InferenceArguments& arguments) {
  app.add_option("--device", arguments.device, "Where to compute")->type_name("auto|cpu|cuda")->capture_default_str();
  app.add_option("--threads", arguments.threads, "Threads of each rank on the CPU; 0: its share of the cores")
      ->capture_default_str();
}

StoredRun find_run(const InferenceArguments& arguments, std::vector<Override> overrides) {
  StoredRun run = is_loose_model(arguments.source) ? find_loose_model(arguments) : find_checkpoint(arguments);
  if (!arguments.device.empty()) {
    overrides.push_back({"distributed.device", arguments.device});
    overrides.push_back({"distributed.threads", std::to_string(arguments.threads)});
  }
  const std::string place =
      (run.loose ? run.checkpoint : run.checkpoint / trainer::CheckpointManifest::kFileName).string() + " (config)";
  run.config = read_config_text(run.manifest.origin.config, place, overrides);
  return run;
}

trainer::StoredModel load_weights(const StoredRun& run, const trainer::WeightsChoice& weights) {
  if (!run.loose) return trainer::load_model(run.checkpoint, weights);
  return {.manifest = run.manifest, .weights_name = run.loose->weights_name, .weights = run.loose->weights};
}

Predictor load_predictor(const StoredRun& run, const trainer::WeightsChoice& weights, comm::World& world,
                         at::Device device) {
  // Beside a living training each rank may have found another newest checkpoint.
  trainer::require_same_on_all_ranks(
      world.control(), run.checkpoint.string() + trainer::to_json(run.manifest), "the checkpoints",
      "a training has just made a new one; name the checkpoint folder instead of the run folder");
  trainer::StoredModel stored = load_weights(run, weights);
  const at::ScalarType compute = trainer::compute_type(run.config.train.precision, device);
  const trainer::ParameterLookup lookup = [&](const std::string& name) {
    const auto found = stored.weights.find(name);
    if (found == stored.weights.end())
      throw trainer::CheckpointError(run.checkpoint, "lacks the parameter '" + name + "' of its own model");
    const at::Tensor& weight = found->second;
    // In type and layout as the arena keeps them, so that a picture drawn later is that of the training (in bf16 to one
    // level of a pixel).
    return weight.to(device, trainer::is_matrix(static_cast<std::size_t>(weight.dim())) ? compute : at::kFloat)
        .contiguous(weight.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
  };
  const data::ImageShape& shape = run.manifest.origin.image_shape;
  trainer::UNet model(trainer::with_output_channels(run.config.model, shape, run.config.diffusion.variance_type), shape,
                      lookup);
  return {std::move(stored), trainer::DiffusionProcess(trainer::NoiseSchedule(run.config.diffusion), device),
          std::move(model)};
}

}  // namespace perrin::launch
