#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "launch/commands/command.hpp"
#include "launch/commands/inference.hpp"
#include "launch/usage_error.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/interchange/diffusers_export.hpp"

namespace perrin::launch {
namespace {

struct ExportArguments {
  InferenceArguments source;
  std::filesystem::path output;
};

ExitCode export_model(const ExportArguments& arguments, const Session& session) {
  if (session.size() > 1) throw UsageError("export is the work of one process; start it without mpirun");
  const StoredRun run = find_run(arguments.source, {});
  require_writable_folder(arguments.output.parent_path());
  const trainer::StoredModel stored = trainer::load_model(run.checkpoint, weights_of(arguments.source));
  const std::string step = std::to_string(run.manifest.progress.step);
  std::map<std::string, std::string> metadata = {{"perrin_weights", stored.weights_name}, {"perrin_step", step}};
  if (stored.profile_residual > 0) metadata["perrin_profile_residual"] = fmt::format("{:.2g}", stored.profile_residual);
  trainer::export_diffusers(arguments.output, run.config.model, run.config.diffusion, run.manifest.origin.image_shape,
                            stored.weights, metadata);
  spdlog::info("{}: {} at step {} as a diffusers folder", arguments.output.string(), stored.weights_name, step);
  if (const std::int64_t classes = run.config.model.num_classes; classes > 0) {
    spdlog::warn(
        "the network is told classes, and diffusers' DDPMPipeline passes none: load it with UNet2DModel.from_pretrained"
        "(\"{}\", subfolder=\"unet\") and give class_labels, 0 to {}{}",
        arguments.output.string(), classes - 1,
        run.config.model.label_dropout > 0 ? fmt::format("; {} is no class", classes) : "");
  }
  return ExitCode::ok;
}

}  // namespace

Command export_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("export", "Write a model as a folder that diffusers loads");
  const auto arguments = std::make_shared<ExportArguments>();
  add_source_options(*app, arguments->source);
  app->add_option("--output", arguments->output, "New folder")->required()->type_name("DIR");
  app->footer(
      "The folder holds a UNet2DModel and a DDPMScheduler for DDPMPipeline.from_pretrained. That pipeline passes no\n"
      "classes: a class-conditional network is loaded as UNet2DModel and given class_labels.\n"
      "\n"
      "Example:\n"
      "  perrin export runs/quickstart --output exports/quickstart\n");
  return {app, [arguments](Session& session) { return export_model(*arguments, session); }};
}

}  // namespace perrin::launch
