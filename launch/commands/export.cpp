#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <map>
#include <memory>

#include "launch/commands/command.hpp"
#include "launch/commands/inference.hpp"
#include "launch/config/resolved.hpp"
#include "launch/usage_error.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/interchange/diffusers_export.hpp"
#include "trainer/interchange/model_file.hpp"

namespace perrin::launch {
namespace {

const std::map<std::string, at::ScalarType> kTypes{{"fp32", at::kFloat}, {"fp16", at::kHalf}, {"bf16", at::kBFloat16}};

struct ExportArguments {
  InferenceArguments source;
  std::filesystem::path folder, file;  // one of them
  std::string type = "fp32";
};

std::int64_t parameters_of(const trainer::StoredModel& stored) {
  std::int64_t parameters = 0;
  for (const auto& [name, weight] : stored.weights) parameters += weight.numel();
  return parameters;
}

/// The configuration without what is of one machine: folders, and how ranks share the work.
std::string shareable(trainer::Config config) {
  config.run.directory = trainer::RunConfig().directory;
  config.data.train.clear();
  config.data.heldout.clear();
  config.distributed = {};
  return resolved_toml(config);
}

/// For the header of the weights.
std::map<std::string, std::string> metadata_of(const StoredRun& run, const trainer::StoredModel& stored) {
  std::map<std::string, std::string> metadata = {{"perrin_weights", stored.weights_name},
                                                 {"perrin_step", std::to_string(run.manifest.progress.step)},
                                                 {"perrin_dataset", run.manifest.origin.dataset_fingerprint}};
  if (stored.profile_residual > 0) metadata["perrin_profile_residual"] = fmt::format("{:.2g}", stored.profile_residual);
  return metadata;
}

/// For the model card.
trainer::ModelFacts facts_of(const StoredRun& run, const trainer::StoredModel& stored, const ExportArguments& arguments,
                             const std::string& title) {
  const trainer::CheckpointManifest& manifest = run.manifest;
  const data::ImageShape& shape = manifest.origin.image_shape;
  const auto known = [](const std::string& text) { return text.empty() ? "not known" : text; };
  return {
      .title = title,
      .rows = {{"Weights", stored.weights_name + ", " + arguments.type},
               {"Steps of training",
                run.loose && manifest.progress.step == 0 ? "not known" : std::to_string(manifest.progress.step)},
               {"Images", fmt::format("{}x{}x{} (channels, height, width)", shape.channels, shape.height, shape.width)},
               {"Classes", run.config.model.num_classes == 0 ? "none" : std::to_string(run.config.model.num_classes)},
               {"Parameters", std::to_string(parameters_of(stored))},
               {"Dataset fingerprint", known(manifest.origin.dataset_fingerprint)},
               {"Held-out loss",
                manifest.heldout_loss ? fmt::format("{:.6f}", *manifest.heldout_loss) : "not measured at this step"},
               {"Made by", known(manifest.origin.program)}},
      .config = shareable(run.config)};
}

ExitCode export_model(const ExportArguments& arguments, const Session& session) {
  if (session.size() > 1) throw UsageError("export is the work of one process; start it without mpirun");
  if (arguments.folder.empty() == arguments.file.empty())
    throw UsageError(
        "export writes a diffusers folder (--output DIR) or one file (--single-file FILE); name one of them");
  const StoredRun run = find_run(arguments.source, {});
  const std::filesystem::path& output = arguments.file.empty() ? arguments.folder : arguments.file;
  require_writable_folder(output.parent_path());
  const trainer::StoredModel stored = load_weights(run, weights_of(arguments.source));
  const at::ScalarType type = kTypes.at(arguments.type);
  const data::ImageShape& shape = run.manifest.origin.image_shape;
  if (!arguments.file.empty()) {
    const trainer::ModelFile file{.config = shareable(run.config),
                                  .shape = shape,
                                  .metadata = metadata_of(run, stored),
                                  .weights = stored.weights};
    trainer::write_model_file(output, file, run.config.model, run.config.diffusion, type);
  } else {
    const std::string title = std::filesystem::absolute(output / "").parent_path().filename().string();
    trainer::export_diffusers(
        output, run.config.model, run.config.diffusion, shape, stored.weights,
        {.type = type, .metadata = metadata_of(run, stored), .facts = facts_of(run, stored, arguments, title)});
  }
  spdlog::info("{}: {} at step {} in {}, as {}", output.string(), stored.weights_name, run.manifest.progress.step,
               arguments.type,
               arguments.file.empty() ? "a diffusers folder; its README.md shows how to use it" : "one file");
  return ExitCode::ok;
}

}  // namespace

Command export_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("export", "Write a model as a folder that diffusers loads, or as one file");
  const auto arguments = std::make_shared<ExportArguments>();
  add_source_options(*app, arguments->source);
  app->add_option("--output", arguments->folder, "New diffusers folder")->type_name("DIR");
  app->add_option("--single-file", arguments->file,
                  "New safetensors file with all that perrin needs, instead of a folder")
      ->type_name("FILE.safetensors");
  app->add_option("--dtype", arguments->type, "Of the weights")
      ->check(CLI::IsMember({"fp32", "fp16", "bf16"}).description(""))
      ->type_name("fp32|fp16|bf16")
      ->capture_default_str();
  app->footer(
      "The folder holds a UNet2DModel, a DDPMScheduler, and a model card with the lines of Python that sample from it. "
      "A\n"
      "model with classes or a learned variance comes with a pipeline.py, which diffusers runs with\n"
      "trust_remote_code=True. `perrin sample`, `evaluate` and `import` read both the folder and the file.\n"
      "\n"
      "Examples:\n"
      "  perrin export runs/quickstart --output exports/quickstart\n"
      "  perrin export runs/quickstart --weights posthoc-0.1 --dtype fp16 --output exports/half\n"
      "  perrin export runs/quickstart --single-file quickstart.safetensors\n");
  return {app, [arguments](Session& session) { return export_model(*arguments, session); }};
}

}  // namespace perrin::launch
