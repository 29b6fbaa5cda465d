#include "launch/commands/score_samples.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "launch/config/resolved.hpp"
#include "launch/usage_error.hpp"
#include "launch/writable_folder.hpp"
#include "trainer/checkpoint/stored_model.hpp"
#include "trainer/evaluate/model_denoiser.hpp"
#include "trainer/evaluate/sample_scorer.hpp"
#include "trainer/interchange/npz.hpp"
#include "trainer/interchange/png.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::launch {
namespace {

bool is_archive(const std::filesystem::path& path) { return path.extension() == ".npz"; }

/// As guided-diffusion's sampler writes, for its evaluator: arr_0 uint8 [N, H, W, C], arr_1 the classes.
void save_archive(const std::filesystem::path& path, const at::Tensor& images, const trainer::Config& config) {
  std::map<std::string, at::Tensor> arrays = {{"arr_0", images.permute({0, 2, 3, 1}).contiguous()}};
  std::vector<std::uint64_t> indices(static_cast<std::size_t>(images.size(0)));
  std::iota(indices.begin(), indices.end(), 0);
  if (const at::Tensor labels = trainer::sampling_labels(config, indices, at::kCPU); labels.defined())
    arrays["arr_1"] = labels;
  trainer::write_npz(path, arrays);
}

void save_pictures(const std::filesystem::path& folder, const at::Tensor& images) {
  make_writable_folder(folder);
  for (std::int64_t i = 0; i < images.size(0); ++i) {
    const at::Tensor pixels = images[i].permute({1, 2, 0}).contiguous();
    const auto* first = pixels.const_data_ptr<std::uint8_t>();
    trainer::write_png(folder / fmt::format("{:06}.png", i), {static_cast<std::uint32_t>(images.size(3)),
                                                              static_cast<std::uint32_t>(images.size(2)),
                                                              static_cast<std::uint32_t>(images.size(1)),
                                                              {first, first + pixels.numel()}});
  }
}

std::filesystem::path output_of(const StoredRun& run, const SampleScoreArguments& arguments) {
  if (!arguments.output.empty()) return arguments.output;
  return trainer::RunPaths(run.checkpoint.parent_path().parent_path()).evaluation();
}

}  // namespace

void add_extractor_options(CLI::App& app, ExtractorArguments& arguments, const std::string& otherwise) {
  app.add_option(
         "--extractor", arguments.extractor,
         "Network whose features are compared: the built-in one, meaningful for Fashion-MNIST, or a TorchScript "
         "file (default: " +
             otherwise + ")")
      ->type_name("builtin|FILE");
  app.add_option("--extractor-sha256", arguments.sha256,
                 "SHA-256 of that file: it is code, and runs only under its hash")
      ->type_name("HEX");
}

void require_new_output(const SampleScoreArguments& arguments) {
  if (arguments.save.empty()) return;
  const bool taken = std::filesystem::exists(arguments.save) &&
                     (is_archive(arguments.save) || !std::filesystem::is_empty(arguments.save));
  if (taken)
    throw UsageError(arguments.save.string() + " exists already; name another --save-samples, or remove it first");
  require_writable_folder(arguments.save.parent_path());
}

void score_samples(const StoredRun& run, const Predictor& predictor, const SampleScoreArguments& arguments,
                   comm::World& world, at::Device device, const trainer::Narrator& narrate, bool json) {
  const std::filesystem::path output = output_of(run, arguments);
  if (world.is_root()) make_writable_folder(output);
  trainer::SampleScorer scorer(run.config, resolved_toml(run.config), run.manifest.origin.image_shape, output, device);
  const trainer::ScoredWeights weights{predictor.stored.weights_name, trainer::sha256_of(predictor.stored.weights),
                                       run.manifest.progress.step};
  const auto samples =
      scorer.draw(predictor.model, weights, world.control(), /*keep_images=*/!arguments.save.empty(), narrate);
  if (!world.is_root()) return;

  const trainer::SampleScores scores = scorer.scores(*samples, trainer::Thoroughness::thorough);
  nlohmann::ordered_json report = {{"checkpoint", run.checkpoint.string()}};
  report.update(scorer.report(scores, weights));
  if (json)
    fmt::print("{}\n", report.dump(2));
  else
    fmt::print("{} ({}, step {}, {} in {} steps)\n", trainer::summary(scores), weights.name, weights.step,
               report.at("sampler").get<std::string>(), report.at("steps").get<std::int64_t>());
  std::fflush(stdout);  // hours of work are said before a disk can refuse them
  if (!arguments.save.empty()) {
    if (is_archive(arguments.save))
      save_archive(arguments.save, samples->images, run.config);
    else
      save_pictures(arguments.save, samples->images);
  }
  scorer.keep(report, weights);
}

}  // namespace perrin::launch
