#include <ATen/ATen.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "data/data_error.hpp"
#include "data/dataset.hpp"
#include "launch/commands/bound_report.hpp"
#include "launch/commands/command.hpp"
#include "launch/commands/inference.hpp"
#include "launch/commands/score_samples.hpp"
#include "launch/device.hpp"
#include "launch/usage_error.hpp"
#include "launch/world_options.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/evaluate/heldout_loss.hpp"
#include "trainer/evaluate/model_denoiser.hpp"
#include "trainer/images.hpp"

namespace perrin::launch {
namespace {

struct EvaluateArguments {
  InferenceArguments source;
  std::filesystem::path heldout;
  std::string metric = "loss";
  std::string images;
  std::filesystem::path output;
  std::int64_t steps = 0;
  std::string clip = "static";
  std::string cdf = "tanh";
  std::string samples;  ///< as the keys of [evaluate] are given
  std::string reference;
  ExtractorArguments extractor;
  SampleScoreArguments scores;
  std::vector<Override> overrides;  ///< --sample.key=value
  bool json = false;
};

/// The options as keys of [evaluate] and [sample]: they are checked like the configuration.
std::vector<Override> overrides_of(const EvaluateArguments& arguments) {
  std::vector<Override> overrides = arguments.overrides;
  for (const Override& given : overrides) {
    if (!given.name.starts_with("sample."))
      throw UsageError("evaluate changes keys of [sample] only; '" + given.name + "' is the run's own");
  }
  if (!overrides.empty() && arguments.metric != "samples")
    throw UsageError("--" + overrides.front().name + " says how samples are drawn, and --samples N draws none yet");
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) overrides.push_back({key, value});
  };
  add("evaluate.images", arguments.images);
  add("evaluate.samples", arguments.samples);
  add("evaluate.reference", arguments.reference);
  add("evaluate.extractor", arguments.extractor.extractor);
  add("evaluate.extractor_sha256", arguments.extractor.sha256);
  return overrides;
}

data::Dataset open_heldout(const EvaluateArguments& arguments, const StoredRun& run) {
  const std::filesystem::path folder =
      arguments.heldout.empty() ? std::filesystem::path(run.config.data.heldout) : arguments.heldout;
  if (folder.empty()) throw UsageError("the run has no held-out dataset; name one with --heldout DIR");
  data::Dataset heldout(folder);
  if (heldout.shape() != run.manifest.origin.image_shape) {
    throw data::DataError(
        folder, "has images of another shape than the model was trained on; prepare it like the training dataset");
  }
  const auto classes = static_cast<std::int64_t>(heldout.manifest().class_histogram.size());
  if (run.config.model.num_classes > 0 && classes > run.config.model.num_classes) {
    throw data::DataError(folder, fmt::format("has labels of {} classes, and the model knows {}; prepare it with the "
                                              "labels of the training dataset",
                                              classes, run.config.model.num_classes));
  }
  if (run.config.model.num_classes > 0 && run.config.model.label_dropout == 0 && heldout.manifest().unlabelled > 0) {
    throw data::DataError(folder, fmt::format("has {} images without a label, and the model was never trained on one; "
                                              "prepare it with the labels of the training dataset",
                                              heldout.manifest().unlabelled));
  }
  return heldout;
}

/// What one evaluation is of.
struct Evaluation {
  const EvaluateArguments& arguments;
  const StoredRun& run;
  const data::Dataset& heldout;
  const Predictor& predictor;
  comm::World& world;
  at::Device device;

  nlohmann::ordered_json origin() const {
    return {{"checkpoint", run.checkpoint.string()},
            {"step", run.manifest.progress.step},
            {"weights", predictor.stored.weights_name},
            {"heldout", heldout.folder().string()}};
  }
};

void evaluate_loss(const Evaluation& of) {
  const trainer::HeldoutLoss result = *trainer::evaluate_heldout(
      of.predictor.model, of.run.config, of.predictor.process, of.heldout, of.world.control(), of.device);
  if (!of.world.is_root()) return;
  if (of.arguments.json) {
    nlohmann::ordered_json json = of.origin();
    json.update({{"images", result.images}, {"loss", result.loss}});
    if (result.bound_estimate) json["vlb_estimate"] = *result.bound_estimate;
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("held-out loss {:.6f} over {} images of {} ({}, step {}){}\n", result.loss, result.images,
               of.heldout.folder().string(), of.predictor.stored.weights_name, of.run.manifest.progress.step,
               result.bound_estimate ? fmt::format("; about {:.3f} bits/dim", *result.bound_estimate) : "");
  }
}

/// Where the progress of a long evaluation is told: stdout belongs to the JSON where that is wanted.
trainer::Narrator narrator(bool json) {
  if (!json) return [](const std::string& line) { spdlog::info("{}", line); };
  return [](const std::string& line) { fmt::print(stderr, "{}\n", line); };
}

void evaluate_bound(const Evaluation& of) {
  const trainer::Config& config = of.run.config;
  const auto schedule = std::make_shared<const trainer::NoiseSchedule>(config.diffusion);
  const auto clip = of.arguments.clip == "none" ? trainer::ClipX0::none : trainer::ClipX0::fixed;
  const trainer::BatchDenoiser denoiser_of = [&](const data::Batch& batch) {
    const at::Tensor labels = trainer::to_labels(batch.labels, config.model, of.device);
    return trainer::with_clipped_x0(trainer::model_denoiser(of.predictor.model, config, schedule, labels), clip,
                                    /*percentile=*/1);
  };
  const trainer::BoundOptions options{
      .images = config.evaluate.images,
      .batch_size = config.evaluate.batch_size,
      .steps = of.arguments.steps,
      .variance = config.diffusion.variance_type,
      .cdf = of.arguments.cdf == "erf" ? trainer::NormalCdf::erf : trainer::NormalCdf::tanh};
  const trainer::VariationalBound bound = trainer::variational_bound(
      denoiser_of, *schedule, options, of.heldout, of.world.control(), of.device, narrator(of.arguments.json));
  if (!of.world.is_root()) return;

  nlohmann::ordered_json report = of.origin();
  report.update({{"images", bound.images},
                 {"timesteps", bound.vb.size()},
                 {"clip", of.arguments.clip},
                 {"cdf", of.arguments.cdf}});
  report.update(bound_summary(bound));
  if (of.arguments.json)
    fmt::print("{}\n", report.dump(2));
  else
    fmt::print("variational bound of {} images of {} ({}, step {}, {} timesteps, {})\n{}", bound.images,
               of.heldout.folder().string(), of.predictor.stored.weights_name, of.run.manifest.progress.step,
               bound.vb.size(), clip == trainer::ClipX0::none ? "x0 not clipped" : "x0 clipped to [-1, 1]",
               bound_table(bound));
  if (of.arguments.output.empty()) return;
  std::fflush(stdout);  // hours of work are said before a disk can refuse them
  write_bound(of.arguments.output, bound, report);
  if (!of.arguments.json)
    fmt::print("every term: {0}/vlb.npz, {0}/vlb.svg, {0}/vlb.json\n", of.arguments.output.string());
}

ExitCode evaluate_samples(const EvaluateArguments& arguments, const StoredRun& run, Session& session) {
  SampleScoreArguments scores = arguments.scores;
  scores.output = arguments.output;
  require_new_output(scores);
  comm::World& world = session.start_world(world_options(run.config.distributed, /*require_all_slurm_tasks=*/false));
  const at::Device device = bind_device(run.config.distributed, world);
  const Predictor predictor = load_predictor(run, weights_of(arguments.source), world, device);
  score_samples(run, predictor, scores, world, device, narrator(arguments.json), arguments.json);
  return ExitCode::ok;
}

ExitCode evaluate(const EvaluateArguments& arguments, Session& session) {
  const StoredRun run = find_run(arguments.source, overrides_of(arguments));
  if (arguments.steps > run.config.diffusion.timesteps) {
    throw UsageError(fmt::format("--steps {} is more than the {} timesteps of the model; 0 is all of them",
                                 arguments.steps, run.config.diffusion.timesteps));
  }
  if (arguments.metric == "samples") return evaluate_samples(arguments, run, session);
  const data::Dataset heldout = open_heldout(arguments, run);
  if (!arguments.output.empty() && session.is_root()) make_writable_folder(arguments.output);
  comm::World& world = session.start_world(world_options(run.config.distributed, /*require_all_slurm_tasks=*/false));
  const at::Device device = bind_device(run.config.distributed, world);
  const Predictor predictor = load_predictor(run, weights_of(arguments.source), world, device);
  const Evaluation evaluation{arguments, run, heldout, predictor, world, device};
  if (arguments.metric == "loss")
    evaluate_loss(evaluation);
  else
    evaluate_bound(evaluation);
  return ExitCode::ok;
}

/// Options that would change nothing are refused, not passed over.
void refuse_options_of_others(const CLI::App& app, const std::string& metric) {
  const auto refuse = [&](std::initializer_list<const char*> options, const char* of) {
    for (const char* option : options)
      if (app.count(option) > 0) throw UsageError(fmt::format("{} is an option of {}", option, of));
  };
  if (metric != "vlb") refuse({"--steps", "--clip", "--cdf"}, "--metric vlb");
  if (metric == "loss") refuse({"--output"}, "--metric vlb and --samples");
  if (metric == "samples") refuse({"--heldout", "--images"}, "--metric loss and vlb");
  if (metric != "samples") refuse({"--reference", "--extractor", "--extractor-sha256", "--save-samples"}, "--samples");
}

}  // namespace

Command evaluate_command(CLI::App& program, const std::vector<Override>& overrides) {
  CLI::App* app = program.add_subcommand("evaluate", "Measure a checkpoint on held-out images, or its samples");
  const auto arguments = std::make_shared<EvaluateArguments>();
  arguments->overrides = overrides;
  add_source_options(*app, arguments->source);
  app->add_option("--metric", arguments->metric,
                  "The loss at one timestep of each image, or the variational bound at every timestep")
      ->check(CLI::IsMember({"loss", "vlb"}).description(""))
      ->type_name("loss|vlb")
      ->capture_default_str();
  app->add_option("--heldout", arguments->heldout, "Dataset to measure on (default: data.heldout of the run)")
      ->type_name("DIR");
  app->add_option("--images", arguments->images, "At most so many (default: evaluate.images of the run)")
      ->type_name("N");
  app->add_option("--steps", arguments->steps,
                  "vlb: timesteps of the process, evenly chosen and respaced; 0: all, as published figures")
      ->check(CLI::Range(0, 1'000'000).description(""))
      ->type_name("N")
      ->capture_default_str();
  app->add_option("--clip", arguments->clip, "vlb: predicted images kept in [-1, 1], as published figures, or not")
      ->check(CLI::IsMember({"static", "none"}).description(""))
      ->type_name("static|none")
      ->capture_default_str();
  app->add_option("--cdf", arguments->cdf, "vlb: the decoder's normal distribution, as in published figures or exactly")
      ->check(CLI::IsMember({"tanh", "erf"}).description(""))
      ->type_name("tanh|erf")
      ->capture_default_str();
  app->add_option(
         "--output", arguments->output,
         "vlb: folder for every term as vlb.npz, vlb.svg and vlb.json; samples: for scores, and what is done of "
         "them (default: evaluation/ of the run)")
      ->type_name("DIR");
  app->add_option(
         "--samples", arguments->samples,
         "Instead of a loss: draw so many samples, as [sample] of the run says, and compare their features with "
         "the reference's")
      ->check(CLI::Range(1, 100'000'000).description(""))
      ->type_name("N");
  app->add_option("--reference", arguments->reference,
                  "samples: a dataset, or statistics of `perrin stats` (default: evaluate.reference of the run)")
      ->type_name("DIR|FILE.npz");
  add_extractor_options(*app, arguments->extractor, "evaluate.extractor of the run");
  app->add_option("--save-samples", arguments->scores.save,
                  "samples: also keep them, as guided-diffusion's evaluator reads them or as a folder of PNG files")
      ->type_name("FILE.npz|DIR");
  app->add_flag("--json", arguments->json, "Print JSON");
  add_device_options(*app, arguments->source);
  app->footer(
      "Images, timesteps and noise are fixed, so that two checkpoints compare; every rank takes its share. The bound\n"
      "asks the network once for each image and timestep: with 1000 timesteps it costs a thousand times the loss.\n"
      "Sample i depends on the seed and i alone, so that scores are the same on any number of ranks; a start that was\n"
      "killed is gone on with by the same command. Keys of [sample] may be given as --sample.key=value.\n"
      "\n"
      "Examples:\n"
      "  mpirun -np 2 perrin evaluate runs/quickstart --json\n"
      "  mpirun -np 2 perrin evaluate runs/quickstart --metric vlb --images 256 --output bound\n"
      "  mpirun -np 2 perrin evaluate runs/quickstart --samples 2000 --sample.steps=20 --json\n");
  return {app, [app, arguments](Session& session) {
            if (app->count("--samples") > 0) {
              if (app->count("--metric") > 0)
                throw UsageError("--samples and --metric are two evaluations; choose one");
              arguments->metric = "samples";
            }
            refuse_options_of_others(*app, arguments->metric);
            return evaluate(*arguments, session);
          }};
}

}  // namespace perrin::launch
