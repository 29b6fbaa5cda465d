// perrin_oracle: runs perrin's mathematics on inputs that a Python test made, so that it can compare with public
// implementations. Configurations are JSON in the metadata of IN.
//   perrin_oracle unet IN OUT        IN: x_t, t, eps, weights.*, perhaps labels; "model". OUT: epsilon, loss (mean of
//                                    all elements), gradients.*
//   perrin_oracle parameters IN OUT  IN: "model" and "shape". OUT: JSON, the shape of each parameter by its name
//   perrin_oracle steps IN OUT       IN: x_t, output, output_6, z, previous_x0; "steps", a list of sampler steps with
//                                    their configuration. OUT: x_prev.0, x_prev.1, ...
//   perrin_oracle trajectory IN OUT  IN: x_T, z.0, z.1, ..., weights.*; "run" and "shape". OUT: x.0, x.1, ...
//   perrin_oracle import IN OUT      IN: x_t, t, perhaps labels; "folder" of a diffusers pipeline. OUT: epsilon
//   perrin_oracle metrics IN OUT     IN: samples [N, D], reference [M, D], probabilities [N, K]; "subsets",
//   "subset_size" and
//                                    "points". OUT: every metric, and the rows of every subset that it took
//   perrin_oracle features IN OUT    IN: images, uint8 [N, C, H, W]. OUT: what the built-in extractor says of them:
//   features,
//                                    probabilities
//   perrin_oracle export IN DIR      IN: weights.*; "model", "diffusion" and "shape". DIR becomes a diffusers folder
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/config/read.hpp"
#include "trainer/diffusion/samplers.hpp"
#include "trainer/evaluate/feature_extractor.hpp"
#include "trainer/evaluate/frechet_distance.hpp"
#include "trainer/evaluate/inception_score.hpp"
#include "trainer/evaluate/kernel_distance.hpp"
#include "trainer/evaluate/keyed_subset.hpp"
#include "trainer/evaluate/precision_recall.hpp"
#include "trainer/interchange/diffusers_export.hpp"
#include "trainer/interchange/diffusers_import.hpp"
#include "trainer/interchange/safetensors.hpp"
#include "trainer/interchange/safetensors_format.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {
namespace {

using nlohmann::json;
using Tensors = std::map<std::string, at::Tensor>;

constexpr std::string_view kWeights = "weights.";

DiffusionConfig diffusion_config(const json& from) {
  const std::map<std::string, BetaSchedule> schedules{{"linear", BetaSchedule::linear},
                                                      {"scaled_linear", BetaSchedule::quadratic},
                                                      {"cosine", BetaSchedule::cosine},
                                                      {"sigmoid", BetaSchedule::sigmoid},
                                                      {"list", BetaSchedule::listed}};
  const std::map<std::string, VarianceType> variances{{"fixed_small", VarianceType::fixed_small},
                                                      {"fixed_large", VarianceType::fixed_large},
                                                      {"learned_range", VarianceType::learned_range}};
  const std::map<std::string, PredictionType> predictions{
      {"epsilon", PredictionType::epsilon}, {"x0", PredictionType::x0}, {"v", PredictionType::v}};
  DiffusionConfig config;
  config.timesteps = from.at("timesteps");
  config.beta_schedule = schedules.at(from.at("beta_schedule").get<std::string>());
  config.variance_type = variances.at(from.at("variance_type").get<std::string>());
  config.prediction = predictions.at(from.value("prediction", "epsilon"));
  config.zero_terminal_snr = from.value("zero_terminal_snr", false);
  config.betas = from.value("betas", std::vector<double>{});
  return config;
}

struct Input {
  explicit Input(const std::string& path) : tensors(read_safetensors(path)) {
    const SafetensorsFile file = SafetensorsFile::read(path);
    for (const auto& [key, text] : file.metadata()) {
      if (key != "format") {
        settings[key] = json::parse(text);
      }
    }
  }

  Tensors weights() const {
    Tensors found;
    for (const auto& [name, tensor] : tensors) {
      if (name.starts_with(kWeights)) {
        found[name.substr(kWeights.size())] = tensor;
      }
    }
    return found;
  }

  ModelConfig model() const {
    const json& from = settings.at("model");
    ModelConfig config;
    config.block_out_channels = from.at("block_out_channels").get<std::vector<std::int64_t>>();
    config.layers_per_block = from.at("layers_per_block");
    config.attention_resolutions = from.at("attention_resolutions").get<std::vector<std::int64_t>>();
    config.attention_head_dim = from.at("attention_head_dim");
    config.attention_heads = from.at("attention_heads");
    config.norm_num_groups = from.at("norm_num_groups");
    config.norm_eps = from.at("norm_eps");
    config.scale_shift_norm = from.at("scale_shift_norm");
    config.resample = from.at("resample") == "resnet" ? Resample::resnet : Resample::conv;
    config.flip_sin_to_cos = from.at("flip_sin_to_cos");
    config.freq_shift = from.at("freq_shift");
    config.downsample_padding = from.at("downsample_padding");
    config.residual_scale = from.at("residual_scale");
    config.num_classes = from.at("num_classes");
    config.label_dropout = from.at("label_dropout");
    config.out_channels = from.at("out_channels");
    return config;
  }

  data::ImageShape shape() const {
    const auto extents = settings.at("shape").get<std::vector<std::uint32_t>>();
    return {extents.at(0), extents.at(1), extents.at(2)};
  }

  Tensors tensors;
  std::map<std::string, json> settings;
};

void run_unet(const Input& in, const std::string& output) {
  Tensors weights = in.weights();
  for (auto& [name, weight] : weights) {
    weight.requires_grad_();
  }
  const auto activations =
      in.settings.at("channels_last").get<bool>() ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const UNet unet(
      in.model(), in.shape(), [&](const std::string& name) { return weights.at(name); }, activations);

  const auto labels = in.tensors.find("labels");
  const at::Tensor epsilon = unet(in.tensors.at("x_t"), in.tensors.at("t"),
                                  {.labels = labels == in.tensors.end() ? at::Tensor() : labels->second});
  const at::Tensor loss = at::mse_loss(epsilon, in.tensors.at("eps"));
  torch::autograd::backward({loss}, {});
  Tensors results{{"epsilon", epsilon}, {"loss", loss}};
  for (const auto& [name, weight] : weights) {
    results["gradients." + name] = weight.grad();
  }
  write_safetensors(output, results);
}

void run_parameters(const Input& in, const std::string& output) {
  json shapes;
  for (const ParameterSpec& parameter : unet_parameters(in.model(), in.shape())) {
    shapes[parameter.name] = parameter.shape;
  }
  std::ofstream(output) << shapes;
}

Config config_of(const json& step) { return launch::read_config_text(step.at("config").get<std::string>(), "step"); }

// A level of the schedule, or the clean image for -1.
NoiseLevel level_of(const NoiseSchedule& schedule, std::int64_t t) { return t < 0 ? NoiseLevel{} : schedule.level(t); }

void run_steps(const Input& in, const std::string& output) {
  const at::Tensor &x_t = in.tensors.at("x_t"), &z = in.tensors.at("z"), &previous = in.tensors.at("previous_x0");
  Tensors results;
  for (const json& step : in.settings.at("steps")) {
    const Config config = config_of(step);
    const auto schedule = std::make_shared<const NoiseSchedule>(config.diffusion);
    const auto t = step.at("t").get<std::int64_t>();
    const NoiseLevel from = schedule->level(t);
    const Network network = [&](const at::Tensor&, const at::Tensor&) {
      return in.tensors.at(config.diffusion.variance_type == VarianceType::learned_range ? "output_6" : "output");
    };
    const Denoiser denoiser =
        with_clipped_x0(make_denoiser(network, config.diffusion.prediction, config.edm.sigma_data, schedule),
                        config.sample.clip, config.sample.clip_percentile);
    at::Tensor x_prev;
    if (config.sample.sampler == Sampler::ancestral) {
      x_prev = ancestral_step(*schedule, x_t, denoiser(x_t, from), t, config.diffusion.variance_type, z);
    } else if (config.sample.sampler == Sampler::ddim) {
      x_prev = ddim_step(denoiser(x_t, from), from, level_of(*schedule, step.at("t_prev")), config.sample.eta, z);
    } else {
      const auto t_before = step.at("t_before").get<std::int64_t>();  // -1: this is the first step
      x_prev = dpm_solver_step(x_t, denoiser(x_t, from).x0, from, level_of(*schedule, step.at("t_prev")),
                               t_before < 0 ? at::Tensor() : previous, level_of(*schedule, t_before));
    }
    results["x_prev." + std::to_string(results.size())] = x_prev;
  }
  write_safetensors(output, results);
}

// A whole run of a sampler over a network: its state before every evaluation, and its result.
void run_trajectory(const Input& in, const std::string& output) {
  const at::NoGradGuard no_grad;
  const Config config = config_of(in.settings.at("run"));
  const auto schedule = std::make_shared<const NoiseSchedule>(config.diffusion);
  const Tensors weights = in.weights();
  const at::Tensor& x_T = in.tensors.at("x_T");
  const UNet unet(with_output_channels(config.model, in.shape(), config.diffusion.variance_type), in.shape(),
                  [&](const std::string& name) { return weights.at(name); });
  const Network network = [&](const at::Tensor& x, const at::Tensor& t) { return unet(x, t); };
  const Denoiser denoiser =
      with_clipped_x0(make_denoiser(network, config.diffusion.prediction, config.edm.sigma_data, schedule),
                      config.sample.clip, config.sample.clip_percentile);
  Tensors results;
  const Denoiser recorded = [&](const at::Tensor& x, const NoiseLevel& level) {
    results["x." + std::to_string(results.size())] = x.clone();
    return denoiser(x, level);
  };
  // Noise in the order in which the steps ask for it.
  std::int64_t asked = 0;
  const StepNoise noise = [&](std::int64_t) { return in.tensors.at("z." + std::to_string(asked++)); };
  const at::Tensor x_0 = sample_from(recorded, *schedule, config.sample, config.diffusion.variance_type, x_T, noise);
  results["x." + std::to_string(results.size())] = x_0;
  write_safetensors(output, results);
}

void run_metrics(const Input& in, const std::string& output) {
  const at::Tensor &samples = in.tensors.at("samples"), &reference = in.tensors.at("reference");
  const auto subsets = in.settings.at("subsets").get<std::int64_t>(),
             subset_size = in.settings.at("subset_size").get<std::int64_t>();
  const auto points = in.settings.at("points").get<std::vector<std::int64_t>>();
  const GaussianFit fit = fit_of(samples), reference_fit = fit_of(reference);
  const FrechetReference frechet(reference_fit);
  const ExtrapolatedDistance extrapolated = extrapolated_distance(frechet, samples, points);
  const KernelDistance kid = kernel_distance(samples, reference, subsets, subset_size);
  const InceptionScore is = inception_score(in.tensors.at("probabilities"));
  const PrecisionRecall manifold = precision_recall(samples, reference);
  const auto numbers = [](std::vector<double> values) { return at::tensor(values, at::kDouble); };
  Tensors results{{"mu", fit.mu},
                  {"sigma", fit.sigma},
                  {"fid", numbers({frechet.distance_to(fit)})},
                  {"fid_infinity", numbers({extrapolated.distance})},
                  {"fid_points", numbers(extrapolated.distances)},
                  {"kid", numbers({kid.mean, kid.deviation})},
                  {"is", numbers({is.mean, is.deviation})},
                  {"precision_recall", numbers({manifold.precision, manifold.recall})}};
  const auto add_subset = [&](const std::string& name, SubsetOf purpose, std::size_t number, const at::Tensor& of,
                              std::int64_t size) {
    results[name + "." + std::to_string(number)] =
        keyed_subset(purpose, static_cast<std::uint32_t>(number), of.size(0), size);
  };
  for (std::size_t i = 0; i < points.size(); ++i) add_subset("points", SubsetOf::extrapolation, i, samples, points[i]);
  for (std::size_t i = 0; i < static_cast<std::size_t>(subsets); ++i) {
    add_subset("samples", SubsetOf::kid_samples, i, samples, subset_size);
    add_subset("reference", SubsetOf::kid_reference, i, reference, subset_size);
  }
  write_safetensors(output, results);
}

void run_features(const Input& in, const std::string& output) {
  const ImageFeatures found = open_extractor("builtin", "", at::kCPU)->extract(in.tensors.at("images"));
  write_safetensors(output, {{"features", found.features}, {"probabilities", found.probabilities}});
}

void run_export(const Input& in, const std::string& folder) {
  export_diffusers(folder, in.model(), diffusion_config(in.settings.at("diffusion")), in.shape(), in.weights(),
                   {.metadata = {{"perrin_weights", "raw"}}, .facts = {}});
}

void run_import(const Input& in, const std::string& output) {
  const at::NoGradGuard no_grad;
  const ImportedModel imported = import_diffusers(in.settings.at("folder").get<std::string>());
  const ModelConfig model =
      with_output_channels(imported.config.model, imported.shape, imported.config.diffusion.variance_type);
  const UNet unet(model, imported.shape, [&](const std::string& name) { return imported.weights.at(name); });
  const auto labels = in.tensors.find("labels");
  const at::Tensor epsilon = unet(in.tensors.at("x_t"), in.tensors.at("t"),
                                  {.labels = labels == in.tensors.end() ? at::Tensor() : labels->second});
  write_safetensors(output, Tensors{{"epsilon", epsilon}});
}

}  // namespace
}  // namespace perrin::trainer

int main(int argc, char** argv) {
  using perrin::trainer::Input;
  const std::map<std::string, std::function<void(const Input&, const std::string&)>> commands{
      {"unet", perrin::trainer::run_unet},       {"parameters", perrin::trainer::run_parameters},
      {"steps", perrin::trainer::run_steps},     {"trajectory", perrin::trainer::run_trajectory},
      {"metrics", perrin::trainer::run_metrics}, {"features", perrin::trainer::run_features},
      {"import", perrin::trainer::run_import},   {"export", perrin::trainer::run_export}};
  if (argc != 4 || !commands.contains(argv[1])) {
    std::fputs(
        "usage: perrin_oracle unet|parameters|steps|trajectory|metrics|features|import|export IN.safetensors OUT\n",
        stderr);
    return 2;
  }
  try {
    commands.at(argv[1])(Input(argv[2]), argv[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "perrin_oracle: %s\n", error.what());
    return 1;
  }
  return 0;
}
