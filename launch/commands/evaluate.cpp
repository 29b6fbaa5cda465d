#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "data/data_error.hpp"
#include "data/dataset.hpp"
#include "launch/commands/command.hpp"
#include "launch/commands/inference.hpp"
#include "launch/device.hpp"
#include "launch/usage_error.hpp"
#include "launch/world_options.hpp"
#include "trainer/evaluate/heldout_loss.hpp"

namespace perrin::launch {
namespace {

struct EvaluateArguments {
  InferenceArguments source;
  std::filesystem::path heldout;
  bool json = false;
};

ExitCode evaluate(const EvaluateArguments& arguments, Session& session) {
  const StoredRun run = find_run(arguments.source, {});
  const std::filesystem::path folder =
      arguments.heldout.empty() ? std::filesystem::path(run.config.data.heldout) : arguments.heldout;
  if (folder.empty()) throw UsageError("the run has no held-out dataset; name one with --heldout DIR");
  const data::Dataset heldout(folder);
  if (heldout.shape() != run.manifest.origin.image_shape) {
    throw data::DataError(
        folder, "has images of another shape than the model was trained on; prepare it like the training dataset");
  }
  comm::World& world = session.start_world(world_options(run.config.distributed, /*require_all_slurm_tasks=*/false));
  const at::Device device = bind_device(run.config.distributed, world);
  const Predictor predictor = load_predictor(run, weights_of(arguments.source), world, device);
  const trainer::HeldoutLoss result =
      trainer::evaluate_heldout(predictor.model, run.config, predictor.process, heldout, world.control(), device);
  if (!world.is_root()) return ExitCode::ok;
  const std::int64_t step = run.manifest.progress.step;
  if (arguments.json) {
    const nlohmann::ordered_json json = {{"checkpoint", run.checkpoint.string()},
                                         {"step", step},
                                         {"weights", predictor.stored.weights_name},
                                         {"heldout", folder.string()},
                                         {"images", result.images},
                                         {"loss", result.loss}};
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("held-out loss {:.6f} over {} images of {} ({}, step {})\n", result.loss, result.images, folder.string(),
               predictor.stored.weights_name, step);
  }
  return ExitCode::ok;
}

}  // namespace

Command evaluate_command(CLI::App& program) {
  CLI::App* app = program.add_subcommand("evaluate", "Measure the held-out loss of a checkpoint");
  const auto arguments = std::make_shared<EvaluateArguments>();
  add_source_options(*app, arguments->source);
  app->add_option("--heldout", arguments->heldout, "Dataset to measure on (default: data.heldout of the run)")
      ->type_name("DIR");
  app->add_flag("--json", arguments->json, "Print JSON");
  add_device_options(*app, arguments->source);
  app->footer(
      "Images, timesteps and noise are fixed, so that two checkpoints compare; every rank takes its share.\n"
      "\n"
      "Example:\n"
      "  mpirun -np 2 perrin evaluate runs/quickstart --json\n");
  return {app, [arguments](Session& session) { return evaluate(*arguments, session); }};
}

}  // namespace perrin::launch
