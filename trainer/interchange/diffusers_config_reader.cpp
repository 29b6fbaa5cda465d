#include "trainer/interchange/diffusers_config_reader.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "trainer/interchange/json_config.hpp"
#include "trainer/model/architecture.hpp"

namespace perrin::trainer {
namespace {

using Names = std::vector<std::string>;

// Larger ones are taken for a damaged or hostile file, before anything is computed of them.
constexpr std::int64_t kMostChannels = 65'536, kMostLayers = 64, kMostClasses = 10'000'000, kMostTimesteps = 1'000'000,
                       kMostPixels = 32'768;

data::ImageShape image_shape(const JsonConfig& config) {
  if (!config.has("sample_size"))
    config.refuse("sample_size", "is missing, and the images' size with it; add it as diffusers writes it");
  data::ImageShape shape;
  shape.channels = static_cast<std::uint32_t>(config.integer("in_channels", 3, 1, kMostChannels));
  if (shape.channels != 1 && shape.channels != 3)
    config.refuse("in_channels", "is " + std::to_string(shape.channels) + ", and perrin's images have 1 or 3");
  const auto size = config.get<nlohmann::json>("sample_size", {});
  const nlohmann::json pair = size.is_array() ? size : nlohmann::json{size, size};
  const auto plausible = [](const nlohmann::json& extent) {
    return extent.is_number_integer() && extent >= 1 && extent <= kMostPixels;
  };
  if (pair.size() != 2 || !plausible(pair[0]) || !plausible(pair[1]))
    config.refuse("sample_size", "is " + size.dump() + ", neither one size nor height and width of images");
  shape.height = pair[0].get<std::uint32_t>();
  shape.width = pair[1].get<std::uint32_t>();
  return shape;
}

std::vector<std::int64_t> block_out_channels(const JsonConfig& config) {
  const auto widths = config.get<std::vector<std::int64_t>>("block_out_channels", {224, 448, 672, 896});
  for (const std::int64_t width : widths) {
    if (width < 1 || width > kMostChannels)
      config.refuse("block_out_channels", "holds " + std::to_string(width) + ", no number of channels");
  }
  return widths;
}

// How the levels change resolution: the blocks with attention say it by downsample_type and upsample_type, the others
// by their own type. The last level of either way changes nothing.
Resample resampling(const JsonConfig& config, const Names& types, const std::string& direction, const char* types_key,
                    const char* type_key) {
  std::optional<Resample> found;
  for (std::size_t i = 0; i < types.size(); ++i) {
    Resample own = Resample::conv;
    if (types[i] == "Attn" + direction + "Block2D")
      own = config.get<std::string>(type_key, "conv") == "resnet" ? Resample::resnet : Resample::conv;
    else if (types[i] == "Resnet" + direction + "sampleBlock2D")
      own = Resample::resnet;
    else if (types[i] != direction + "Block2D")
      config.refuse(types_key, "names '" + types[i] + "'; perrin has " + direction + "Block2D, Attn" + direction +
                                   "Block2D and Resnet" + direction + "sampleBlock2D");
    if (i + 1 == types.size()) continue;
    if (found && *found != own)
      config.refuse(types_key,
                    "mixes convolutions and residual blocks as ways to change resolution; perrin has one "
                    "for all levels (see " +
                        std::string(type_key) + ")");
    found = own;
  }
  return found.value_or(Resample::conv);
}

Resample resample_of(const JsonConfig& config, const Names& down, const Names& up) {
  config.require("downsample_type", {"conv", "resnet"});
  config.require("upsample_type", {"conv", "resnet"});
  const Resample resample = resampling(config, down, "Down", "down_block_types", "downsample_type");
  if (down.size() > 1 && resampling(config, up, "Up", "up_block_types", "upsample_type") != resample)
    config.refuse("up_block_types", "change resolution in another way than down_block_types; perrin has one for both");
  return resample;
}

// Heights of the levels with attention, which must be the same on the way down and up.
std::vector<std::int64_t> attention_resolutions(const JsonConfig& config, const Names& down, const Names& up,
                                                const data::ImageShape& shape) {
  std::vector<std::int64_t> heights;
  for (std::size_t level = 0; level < down.size(); ++level) {
    const bool attends = down[level].starts_with("Attn");
    if (up[up.size() - 1 - level].starts_with("Attn") != attends)
      config.refuse("up_block_types", "have attention at other levels than down_block_types; perrin has it in both");
    if (attends) heights.push_back(shape.height >> level);
  }
  return heights;
}

void check_fixed_keys(const JsonConfig& config) {
  config.require("_class_name", {"UNet2DModel"});
  config.require("center_input_sample", {false});
  config.require("time_embedding_type", {"positional"});
  config.require("mid_block_type", {"UNetMidBlock2D"});
  config.require("mid_block_scale_factor", {1});
  config.require("act_fn", {"silu", "swish"});
  config.require("resnet_time_scale_shift", {"default", "scale_shift"});
  config.require("add_attention", {true});
  config.require("class_embed_type", {nullptr});
  config.require("downsample_padding", {1, 0});
  config.require("freq_shift", {0, 1});
  config.require_known({"sample_size",
                        "in_channels",
                        "out_channels",
                        "center_input_sample",
                        "time_embedding_type",
                        "time_embedding_dim",
                        "freq_shift",
                        "flip_sin_to_cos",
                        "down_block_types",
                        "mid_block_type",
                        "up_block_types",
                        "block_out_channels",
                        "layers_per_block",
                        "mid_block_scale_factor",
                        "downsample_padding",
                        "downsample_type",
                        "upsample_type",
                        "dropout",
                        "act_fn",
                        "attention_head_dim",
                        "norm_num_groups",
                        "attn_norm_num_groups",
                        "norm_eps",
                        "resnet_time_scale_shift",
                        "add_attention",
                        "num_class_embeds",
                        "num_train_timesteps"});
}

// Null means that of the network, except under scale_shift, where the middle has no norm then.
void check_attention_norm(const JsonConfig& config, const ModelConfig& model) {
  const bool own = config.has("attn_norm_num_groups");
  if (!own && model.scale_shift_norm)
    config.refuse("attn_norm_num_groups",
                  "is null under resnet_time_scale_shift scale_shift, so that the attention in "
                  "the middle has no GroupNorm; perrin's always has one");
  if (own && config.integer("attn_norm_num_groups", 0, 1, kMostChannels) != model.norm_num_groups)
    config.refuse("attn_norm_num_groups", "is not norm_num_groups; perrin has one number of groups");
}

ProcessDescription clipping(const JsonConfig& config) {
  ProcessDescription process;
  if (config.get("thresholding", false)) {
    process.clip = ClipX0::dynamic;
    process.clip_percentile = config.get("dynamic_thresholding_ratio", 0.995);
  } else if (!config.get("clip_sample", true)) {
    process.clip = ClipX0::none;
  } else {
    config.require("clip_sample_range", {1.0});
  }
  return process;
}

template <class Value>
Value translate(const JsonConfig& config, const char* key, const std::string& absent,
                const std::map<std::string, Value>& values) {
  const auto found = values.find(config.get<std::string>(key, absent));
  if (found != values.end()) return found->second;
  std::string list;
  for (const auto& [name, value] : values) list += (list.empty() ? "" : ", ") + name;
  config.refuse(key, "is '" + config.get<std::string>(key, absent) + "'; perrin has " + list);
}

}  // namespace

NetworkDescription read_unet_config(const std::filesystem::path& file) {
  const JsonConfig config(file);
  check_fixed_keys(config);
  // Apart: GCC 12 destroys members twice where one in a list of initializers throws.
  const data::ImageShape shape = image_shape(config);
  NetworkDescription network{.model = {}, .shape = shape};
  ModelConfig& model = network.model;
  model.block_out_channels = block_out_channels(config);
  const Names down = config.get<Names>("down_block_types",
                                       {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"}),
              up =
                  config.get<Names>("up_block_types", {"AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"});
  if (down.size() != model.block_out_channels.size() || up.size() != down.size())
    config.refuse("block_out_channels", "has another number of levels than down_block_types or up_block_types");
  model.layers_per_block = config.integer("layers_per_block", 2, 1, kMostLayers);
  model.attention_resolutions = attention_resolutions(config, down, up, network.shape);
  if (config.has("attention_head_dim") || !config.get<nlohmann::json>("attention_head_dim", 8).is_null())
    model.attention_head_dim = config.integer("attention_head_dim", 8, 1, kMostChannels);
  model.norm_num_groups = config.integer("norm_num_groups", 32, 1, kMostChannels);
  model.norm_eps = config.get("norm_eps", 1e-5);
  model.dropout = config.get("dropout", 0.0);
  model.scale_shift_norm = config.get<std::string>("resnet_time_scale_shift", "default") == "scale_shift";
  model.resample = resample_of(config, down, up);
  model.flip_sin_to_cos = config.get("flip_sin_to_cos", true);
  model.freq_shift = config.integer("freq_shift", 0, 0, 1);
  model.downsample_padding = config.integer("downsample_padding", 1, 0, 1);
  model.out_channels = config.integer("out_channels", 3, 1, kMostChannels);
  if (config.has("num_class_embeds")) model.num_classes = config.integer("num_class_embeds", 0, 1, kMostClasses);
  check_attention_norm(config, model);
  if (config.has("time_embedding_dim") && !model.block_out_channels.empty() &&
      config.integer("time_embedding_dim", 0, 1, 4 * kMostChannels) != 4 * model.block_out_channels.front())
    config.refuse("time_embedding_dim", "is not 4 * block_out_channels[0], as perrin's networks have it");
  try {
    check_architecture(model, network.shape);
  } catch (const std::invalid_argument& error) {
    throw data::DataError(file, error.what());
  }
  return network;
}

ProcessDescription read_scheduler_config(const std::filesystem::path& file) {
  const JsonConfig config(file);
  // Those of the discrete process of DDPM; others have sigmas, a continuous time, or flows.
  config.require("_class_name", {"DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"});
  ProcessDescription process = clipping(config);
  DiffusionConfig& diffusion = process.diffusion;
  diffusion.timesteps = config.integer("num_train_timesteps", 1000, 1, kMostTimesteps);
  diffusion.beta_start = config.get("beta_start", 1e-4);
  diffusion.beta_end = config.get("beta_end", 0.02);
  diffusion.beta_schedule = translate<BetaSchedule>(config, "beta_schedule", "linear",
                                                    {{"linear", BetaSchedule::linear},
                                                     {"scaled_linear", BetaSchedule::quadratic},
                                                     {"squaredcos_cap_v2", BetaSchedule::cosine},
                                                     {"sigmoid", BetaSchedule::sigmoid}});
  if (config.has("trained_betas")) {
    diffusion.beta_schedule = BetaSchedule::listed;
    diffusion.betas = config.get<std::vector<double>>("trained_betas", {});
    if (static_cast<std::int64_t>(diffusion.betas.size()) != diffusion.timesteps)
      config.refuse("trained_betas", "lists " + std::to_string(diffusion.betas.size()) + " betas for " +
                                         std::to_string(diffusion.timesteps) + " num_train_timesteps");
  }
  // fixed_small_log is fixed_small by way of its logarithm. fixed_large_log is not fixed_large: diffusers takes the
  // root of the logarithm itself.
  diffusion.variance_type = translate<VarianceType>(config, "variance_type", "fixed_small",
                                                    {{"fixed_small", VarianceType::fixed_small},
                                                     {"fixed_small_log", VarianceType::fixed_small},
                                                     {"fixed_large", VarianceType::fixed_large},
                                                     {"learned_range", VarianceType::learned_range}});
  diffusion.prediction = translate<PredictionType>(
      config, "prediction_type", "epsilon",
      {{"epsilon", PredictionType::epsilon}, {"sample", PredictionType::x0}, {"v_prediction", PredictionType::v}});
  diffusion.zero_terminal_snr = config.get("rescale_betas_zero_snr", false);
  return process;
}

}  // namespace perrin::trainer
