#include "trainer/interchange/diffusers_export.hpp"

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "trainer/interchange/safetensors.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kDiffusersVersion = "0.42.1";  // whose keys these are, and which the tests load them with

Json null_or(std::int64_t value) { return value == 0 ? Json(nullptr) : Json(value); }

Json block_types(const ModelConfig& model, const data::ImageShape& shape, const std::string& direction) {
  Json types = Json::array();
  for (std::size_t level = 0; level < model.block_out_channels.size(); ++level) {
    const auto height = static_cast<std::int64_t>(shape.height >> level);
    const auto& attention = model.attention_resolutions;
    const bool attends = std::find(attention.begin(), attention.end(), height) != attention.end();
    types.push_back((attends ? "Attn" : "") + direction + "Block2D");
  }
  return types;
}

Json unet_config(const ModelConfig& model, const data::ImageShape& shape) {
  Json up_block_types = block_types(model, shape, "Up");
  std::reverse(up_block_types.begin(), up_block_types.end());
  return {{"_class_name", "UNet2DModel"},
          {"_diffusers_version", kDiffusersVersion},
          {"sample_size", shape.height == shape.width ? Json(shape.height) : Json{shape.height, shape.width}},
          {"in_channels", shape.channels},
          {"out_channels", shape.channels},
          {"center_input_sample", false},
          {"time_embedding_type", "positional"},
          {"time_embedding_dim", nullptr},
          {"freq_shift", 1},
          {"flip_sin_to_cos", false},
          {"down_block_types", block_types(model, shape, "Down")},
          {"mid_block_type", "UNetMidBlock2D"},
          {"up_block_types", up_block_types},
          {"block_out_channels", model.block_out_channels},
          {"layers_per_block", model.layers_per_block},
          {"mid_block_scale_factor", 1},
          {"downsample_padding", 0},
          {"downsample_type", "conv"},
          {"upsample_type", "conv"},
          {"dropout", model.dropout},
          {"act_fn", "silu"},
          {"attention_head_dim", null_or(model.attention_head_dim)},  // absent, it would mean 8
          {"norm_num_groups", model.norm_num_groups},
          {"attn_norm_num_groups", nullptr},
          {"norm_eps", model.norm_eps},
          {"resnet_time_scale_shift", "default"},
          {"add_attention", true},
          {"class_embed_type", nullptr},
          {"num_class_embeds", nullptr},
          {"num_train_timesteps", nullptr}};
}

Json scheduler_config(const DiffusionConfig& diffusion) {
  return {{"_class_name", "DDPMScheduler"},
          {"_diffusers_version", kDiffusersVersion},
          {"num_train_timesteps", diffusion.timesteps},
          {"beta_start", diffusion.beta_start},
          {"beta_end", diffusion.beta_end},
          {"beta_schedule", diffusion.beta_schedule == BetaSchedule::linear ? "linear" : "squaredcos_cap_v2"},
          {"trained_betas", nullptr},
          {"variance_type", diffusion.variance_type == VarianceType::fixed_small ? "fixed_small" : "fixed_large"},
          {"clip_sample", true},
          {"clip_sample_range", 1.0},
          {"prediction_type", "epsilon"},
          {"thresholding", false},
          {"dynamic_thresholding_ratio", 0.995},
          {"sample_max_value", 1.0},
          // 100 steps run 999, 989, ...: the default "leading" would never see t = 999, and "linspace" does not agree
          // with the spacing that diffusers' DDIM assumes between its steps.
          {"timestep_spacing", "trailing"},
          {"steps_offset", 0},
          {"rescale_betas_zero_snr", false}};
}

Json model_index() {
  return {{"_class_name", "DDPMPipeline"},
          {"_diffusers_version", kDiffusersVersion},
          {"unet", {"diffusers", "UNet2DModel"}},
          {"scheduler", {"diffusers", "DDPMScheduler"}}};
}

// The parameters as the file holds them: exactly those of the network, float32, finite.
std::map<std::string, at::Tensor> checked_weights(const fs::path& folder, const std::vector<ParameterSpec>& parameters,
                                                  const std::map<std::string, at::Tensor>& weights) {
  std::map<std::string, at::Tensor> checked;
  for (const ParameterSpec& parameter : parameters) {
    const auto found = weights.find(parameter.name);
    if (found == weights.end() || found->second.sizes() != at::IntArrayRef(parameter.shape)) {
      throw std::invalid_argument("export_diffusers: the weights lack '" + parameter.name + "' in shape " +
                                  c10::str(at::IntArrayRef(parameter.shape)));
    }
    if (!found->second.isfinite().all().item<bool>()) {
      throw data::DataError(folder, "is not written, since parameter '" + parameter.name +
                                        "' holds values that are not finite; export an earlier checkpoint");
    }
    checked.emplace(parameter.name, found->second.detach().to(at::kFloat));
  }
  if (weights.size() != checked.size()) {
    throw std::invalid_argument("export_diffusers: " + std::to_string(weights.size()) + " tensors were given for the " +
                                std::to_string(checked.size()) + " parameters of the network");
  }
  return checked;
}

void write_json(const fs::path& path, const Json& json) { data::write_file_durably(path, json.dump(2) + "\n"); }

// A folder under a temporary name, removed again unless it was published.
class UnpublishedFolder {
 public:
  explicit UnpublishedFolder(const fs::path& final)
      : final_(final), path_(final.string() + ".tmp-" + std::to_string(getpid())) {
    std::error_code error;
    fs::create_directories(path_ / "unet", error);
    if (!error) {
      fs::create_directories(path_ / "scheduler", error);
    }
    if (error) {
      throw data::DataError(path_, "cannot be made (" + error.message() + "); choose a folder that you may write");
    }
  }
  UnpublishedFolder(const UnpublishedFolder&) = delete;
  UnpublishedFolder& operator=(const UnpublishedFolder&) = delete;
  ~UnpublishedFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);  // nothing is there after publish()
  }

  const fs::path& path() const { return path_; }

  void publish() {
    data::sync_folder(path_ / "unet");
    data::sync_folder(path_ / "scheduler");
    data::sync_folder(path_);
    data::rename_durably(path_, final_);
  }

 private:
  fs::path final_;
  fs::path path_;
};

}  // namespace

void export_diffusers(const fs::path& folder, const ModelConfig& model, const DiffusionConfig& diffusion,
                      const data::ImageShape& shape, const std::map<std::string, at::Tensor>& weights,
                      const std::map<std::string, std::string>& metadata) {
  const std::map<std::string, at::Tensor> checked = checked_weights(folder, unet_parameters(model, shape), weights);
  const fs::path final =
      fs::absolute(folder / "").parent_path();  // without a trailing slash, whose temporary name would lie inside
  if (fs::exists(final)) {
    throw data::DataError(final, "exists already; nothing was overwritten. Choose another folder or remove this one");
  }
  UnpublishedFolder unpublished(final);
  write_json(unpublished.path() / "model_index.json", model_index());
  write_json(unpublished.path() / "unet" / "config.json", unet_config(model, shape));
  write_safetensors(unpublished.path() / "unet" / "diffusion_pytorch_model.safetensors", checked, metadata);
  write_json(unpublished.path() / "scheduler" / "scheduler_config.json", scheduler_config(diffusion));
  unpublished.publish();
}

}  // namespace perrin::trainer
