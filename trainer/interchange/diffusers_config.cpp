#include "trainer/interchange/diffusers_config.hpp"

#include <algorithm>
#include <string>
#include <string_view>

#include "data/data_error.hpp"
#include "trainer/model/architecture.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kDiffusersVersion = "0.42.1";  // whose keys these are, and which the tests load them with

// Channels of one head; null: a single head. Absent, it would mean 8.
Json attention_head_dim(const ModelConfig& model) {
  const std::int64_t width = model.block_out_channels.back(), heads = heads_of(model, width);
  if (model.attention_head_dim > 0) {
    return model.attention_head_dim;
  }
  return heads == 1 ? Json(nullptr) : Json(width / heads);
}

Json block_types(const ModelConfig& model, const data::ImageShape& shape, const std::string& direction) {
  const bool resnet = model.resample == Resample::resnet;
  const std::string plain = (resnet ? "Resnet" + direction + "sample" : direction) + "Block2D";
  Json types = Json::array();
  for (std::size_t level = 0; level < model.block_out_channels.size(); ++level) {
    types.push_back(attends(model, shape, level) ? "Attn" + direction + "Block2D" : plain);
  }
  return types;
}

Json class_count(const ModelConfig& model) {
  return model.num_classes == 0 ? Json(nullptr) : Json(model.num_classes + (has_null_class(model) ? 1 : 0));
}

std::string_view beta_schedule(BetaSchedule schedule) {
  switch (schedule) {
    case BetaSchedule::quadratic:
      return "scaled_linear";
    case BetaSchedule::cosine:
      return "squaredcos_cap_v2";
    case BetaSchedule::sigmoid:
      return "sigmoid";
    case BetaSchedule::linear:
    case BetaSchedule::listed:  // trained_betas overrule it
      break;
  }
  return "linear";
}

// Never fixed_large_log: diffusers takes the root of its logarithm, which is NaN.
std::string_view variance_type(VarianceType type) {
  switch (type) {
    case VarianceType::fixed_small:
      return "fixed_small";
    case VarianceType::learned_range:
      return "learned_range";
    case VarianceType::fixed_large:
      break;
  }
  return "fixed_large";
}

std::string_view prediction_type(PredictionType type) {
  switch (type) {
    case PredictionType::x0:
      return "sample";
    case PredictionType::v:
      return "v_prediction";
    case PredictionType::epsilon:
    case PredictionType::edm:  // refused above
      break;
  }
  return "epsilon";
}

}  // namespace

void check_expressible(const fs::path& folder, const ModelConfig& model, const DiffusionConfig& diffusion,
                       const data::ImageShape& shape) {
  const auto refuse = [&folder](const std::string& reason, const std::string& remedy) {
    throw data::DataError(folder, "is not written, since " + reason + "; " + remedy + ", or draw with `perrin sample`");
  };
  if (diffusion.prediction == PredictionType::edm) {
    refuse("diffusers has no scheduler for a UNet2DModel of prediction edm", "train with epsilon, x0 or v");
  }
  if (model.residual_scale != 1) {
    refuse("diffusers' UNet2DModel adds residuals unscaled and model.residual_scale is " +
               Json(model.residual_scale).dump(),
           "train with 1");
  }
  if (model.timestep_scale != 1) {
    refuse("diffusers' UNet2DModel is told t itself and model.timestep_scale is " + Json(model.timestep_scale).dump(),
           "train with 1");
  }
  if (model.attention_heads <= 1) {
    return;
  }
  const auto& widths = model.block_out_channels;
  for (std::size_t level = 0; level < widths.size(); ++level) {
    if (attends(model, shape, level) && widths[level] != widths.back()) {
      refuse("diffusers knows one number of channels for all heads, and model.attention_heads = " +
                 std::to_string(model.attention_heads) + " gives them " +
                 std::to_string(widths[level] / model.attention_heads) + " at level " + std::to_string(level) +
                 " and " + std::to_string(widths.back() / model.attention_heads) + " in the middle",
             "train with model.attention_head_dim");
    }
  }
}

bool has_null_class(const ModelConfig& model) { return model.num_classes > 0 && model.label_dropout > 0; }

Json unet_config(const ModelConfig& model, const data::ImageShape& shape) {
  Json up_block_types = block_types(model, shape, "Up");
  std::reverse(up_block_types.begin(), up_block_types.end());
  const std::string resampling = model.resample == Resample::resnet ? "resnet" : "conv";
  return {{"_class_name", "UNet2DModel"},
          {"_diffusers_version", kDiffusersVersion},
          {"sample_size", shape.height == shape.width ? Json(shape.height) : Json{shape.height, shape.width}},
          {"in_channels", shape.channels},
          {"out_channels", model.out_channels},
          {"center_input_sample", false},
          {"time_embedding_type", "positional"},
          {"time_embedding_dim", nullptr},
          {"freq_shift", model.freq_shift},
          {"flip_sin_to_cos", model.flip_sin_to_cos},
          {"down_block_types", block_types(model, shape, "Down")},
          {"mid_block_type", "UNetMidBlock2D"},
          {"up_block_types", up_block_types},
          {"block_out_channels", model.block_out_channels},
          {"layers_per_block", model.layers_per_block},
          {"mid_block_scale_factor", 1},
          {"downsample_padding", model.downsample_padding},
          {"downsample_type", resampling},
          {"upsample_type", resampling},
          {"dropout", model.dropout},
          {"act_fn", "silu"},
          {"attention_head_dim", attention_head_dim(model)},
          {"norm_num_groups", model.norm_num_groups},
          {"attn_norm_num_groups", model.norm_num_groups},  // null: no norm in the middle under scale_shift
          {"norm_eps", model.norm_eps},
          {"resnet_time_scale_shift", model.scale_shift_norm ? "scale_shift" : "default"},
          {"add_attention", true},
          {"class_embed_type", nullptr},
          {"num_class_embeds", class_count(model)},
          {"num_train_timesteps", nullptr}};
}

Json scheduler_config(const DiffusionConfig& diffusion) {
  const bool listed = diffusion.beta_schedule == BetaSchedule::listed;
  return {{"_class_name", "DDPMScheduler"},
          {"_diffusers_version", kDiffusersVersion},
          {"num_train_timesteps", diffusion.timesteps},
          {"beta_start", diffusion.beta_start},
          {"beta_end", diffusion.beta_end},
          {"beta_schedule", beta_schedule(diffusion.beta_schedule)},
          {"trained_betas", listed ? Json(diffusion.betas) : Json(nullptr)},
          {"variance_type", variance_type(diffusion.variance_type)},
          {"clip_sample", true},
          {"clip_sample_range", 1.0},
          {"prediction_type", prediction_type(diffusion.prediction)},
          {"thresholding", false},
          {"dynamic_thresholding_ratio", 0.995},
          {"sample_max_value", 1.0},
          // 100 steps run 999, 989, ...: the default "leading" would never see t = 999, and "linspace" does not agree
          // with the spacing that diffusers' DDIM assumes between its steps.
          {"timestep_spacing", "trailing"},
          {"steps_offset", 0},
          {"rescale_betas_zero_snr", diffusion.zero_terminal_snr}};
}

bool needs_own_pipeline(const ModelConfig& model, const DiffusionConfig& diffusion) {
  return model.num_classes > 0 || diffusion.variance_type == VarianceType::learned_range;
}

Json model_index(const ModelConfig& model) {
  Json json = {{"_class_name", "DDPMPipeline"},
               {"_diffusers_version", kDiffusersVersion},
               {"unet", {"diffusers", "UNet2DModel"}},
               {"scheduler", {"diffusers", "DDPMScheduler"}}};
  if (model.num_classes > 0) {
    json["_class_name"] = {"pipeline", "PerrinPipeline"};  // the class of pipeline.py: DDPMPipeline could only fail
    json["null_class"] = has_null_class(model) ? Json(model.num_classes) : Json(nullptr);
  }
  return json;
}

}  // namespace perrin::trainer
