#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "launch/commands/command.hpp"
#include "launch/commands/inference.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/interchange/diffusers_export.hpp"

namespace perrin::launch {
namespace {

struct ExportArguments {
  InferenceArguments source;
  std::filesystem::path output;
};

ExitCode export_model(const ExportArguments& arguments) {
  const StoredRun run = find_run(arguments.source, {});
  require_writable_folder(arguments.output.parent_path());
  const trainer::StoredModel stored = trainer::load_model(run.checkpoint, weights_of(arguments.source));
  const std::string step = std::to_string(run.manifest.progress.step);
  std::map<std::string, std::string> metadata = {{"perrin_weights", stored.weights_name}, {"perrin_step", step}};
  std::string quality;
  if (stored.profile_residual > 0) {
    metadata["perrin_profile_residual"] = fmt::format("{:.2g}", stored.profile_residual);
    quality = fmt::format(" (relative residual of its profile {:.2g})", stored.profile_residual);
  }
  trainer::export_diffusers(arguments.output, run.config.model, run.config.diffusion, run.manifest.origin.image_shape,
                            stored.weights, metadata);
  spdlog::info("{}: {}{} at step {} as a diffusers folder", arguments.output.string(), stored.weights_name, quality,
               step);
  return ExitCode::ok;
}

}  // namespace

Command export_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("export", "Write a model as a folder that diffusers loads");
  const auto arguments = std::make_shared<ExportArguments>();
  add_source_options(*app, arguments->source);
  app->add_option("--output", arguments->output, "New folder")->required()->type_name("DIR");
  app->footer(
      "The folder holds a UNet2DModel and a DDPMScheduler for DDPMPipeline.from_pretrained.\n"
      "\n"
      "Example:\n"
      "  perrin export runs/quickstart --output exports/quickstart\n");
  return {app, [arguments](Session&) { return export_model(*arguments); }};
}

}  // namespace perrin::launch
