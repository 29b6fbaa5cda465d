// perrin_oracle: runs perrin's mathematics on inputs that a Python test made, so that it can compare with public
// implementations. Configurations are JSON in the metadata of IN.
//   perrin_oracle unet IN OUT        IN: x_t, t, eps, weights.*, perhaps labels; "model". OUT: epsilon, loss (mean of
//                                    all elements), gradients.*
//   perrin_oracle parameters IN OUT  IN: "model" and "shape". OUT: JSON, the shape of each parameter by its name
//   perrin_oracle steps IN OUT       IN: x_t, eps, z; "steps", a list of sampler steps. OUT: x_prev.0, x_prev.1, ...
//   perrin_oracle export IN DIR      IN: weights.*; "model", "diffusion" and "shape". DIR becomes a diffusers folder
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/diffusion/samplers.hpp"
#include "trainer/interchange/diffusers_export.hpp"
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
  const at::Tensor loss = (epsilon - in.tensors.at("eps")).square().mean();
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

void run_steps(const Input& in, const std::string& output) {
  const at::Tensor &x_t = in.tensors.at("x_t"), &eps = in.tensors.at("eps"), &z = in.tensors.at("z");
  Tensors results;
  for (const json& step : in.settings.at("steps")) {
    const DiffusionConfig config = diffusion_config(step.at("diffusion"));
    const NoiseSchedule schedule(config);
    const ClipX0 clip = step.at("clip").get<bool>() ? ClipX0::yes : ClipX0::no;
    results["x_prev." + std::to_string(results.size())] =
        step.at("sampler") == "ddim"
            ? ddim_step(schedule, x_t, eps, step.at("t"), step.at("t_prev"), step.at("eta"), z, clip)
            : ancestral_step(schedule, x_t, eps, step.at("t"), config.variance_type, z, clip);
  }
  write_safetensors(output, results);
}

void run_export(const Input& in, const std::string& folder) {
  export_diffusers(folder, in.model(), diffusion_config(in.settings.at("diffusion")), in.shape(), in.weights(),
                   {{"perrin_weights", "raw"}});
}

}  // namespace
}  // namespace perrin::trainer

int main(int argc, char** argv) {
  using perrin::trainer::Input;
  const std::map<std::string, std::function<void(const Input&, const std::string&)>> commands{
      {"unet", perrin::trainer::run_unet},
      {"parameters", perrin::trainer::run_parameters},
      {"steps", perrin::trainer::run_steps},
      {"export", perrin::trainer::run_export}};
  if (argc != 4 || !commands.contains(argv[1])) {
    std::fputs("usage: perrin_oracle unet|parameters|steps|export IN.safetensors OUT\n", stderr);
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
