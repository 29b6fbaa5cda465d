#include "trainer/model/architecture.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace perrin::trainer {
namespace {

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument("model: " + reason); }

void check_attention_width(const ModelConfig& config, std::int64_t width) {
  const std::string where = " does not divide the " + std::to_string(width) + " channels of an attention; ";
  if (config.attention_head_dim > 0 && width % config.attention_head_dim != 0) {
    refuse("attention_head_dim = " + std::to_string(config.attention_head_dim) + where +
           "choose a divisor, or 0 for a single head");
  }
  if (config.attention_heads > 0 && width % config.attention_heads != 0) {
    refuse("attention_heads = " + std::to_string(config.attention_heads) + where + "choose a divisor");
  }
}

void check_attention(const ModelConfig& config, const data::ImageShape& shape) {
  if (config.attention_head_dim < 0 || config.attention_heads < 0) {
    refuse("attention_head_dim and attention_heads must not be negative; 0 means a single head");
  }
  if (config.attention_head_dim > 0 && config.attention_heads > 0) {
    refuse("attention_head_dim = " + std::to_string(config.attention_head_dim) + " and attention_heads = " +
           std::to_string(config.attention_heads) + " both say how many heads there are; set one of them to 0");
  }
  for (std::size_t level = 0; level < config.block_out_channels.size(); ++level) {
    if (attends(config, shape, level)) {
      check_attention_width(config, config.block_out_channels[level]);
    }
  }
  check_attention_width(config, config.block_out_channels.back());  // the middle
}

void check_widths(const ModelConfig& config) {
  const auto& widths = config.block_out_channels;
  if (widths.empty() || config.layers_per_block < 1) {
    refuse("block_out_channels needs at least one level, and layers_per_block at least 1");
  }
  if (widths.size() > 16) {
    refuse("block_out_channels has " + std::to_string(widths.size()) + " levels; at most 16 make sense");
  }
  for (const std::int64_t width : widths) {
    if (config.norm_num_groups < 1 || width < 1 || width % config.norm_num_groups != 0) {
      refuse("norm_num_groups = " + std::to_string(config.norm_num_groups) + " does not divide the " +
             std::to_string(width) + " channels of a level; choose a common divisor of block_out_channels");
    }
  }
  if (widths.front() < 4 || widths.front() % 2 != 0) {
    refuse("block_out_channels[0] = " + std::to_string(widths.front()) +
           " holds the sines and cosines of the time embedding: it must be even and at least 4");
  }
}

void check_shape(const ModelConfig& config, const data::ImageShape& shape) {
  const std::size_t halvings = config.block_out_channels.size() - 1;
  const std::uint32_t factor = 1u << halvings;
  if (shape.channels == 0 || shape.height == 0 || shape.width == 0 || shape.height % factor != 0 ||
      shape.width % factor != 0) {
    refuse("images of " + std::to_string(shape.height) + "x" + std::to_string(shape.width) + " cannot be halved " +
           std::to_string(halvings) + " times; use fewer levels in block_out_channels, or pad the images to a " +
           "multiple of " + std::to_string(factor));
  }
}

void check_numbers(const ModelConfig& config) {
  if (!(config.dropout >= 0 && config.dropout < 1) || !(config.norm_eps > 0)) {
    refuse("dropout must be in [0, 1) and norm_eps above 0");
  }
  if (config.freq_shift < 0 || config.freq_shift > 1 || config.downsample_padding < 0 ||
      config.downsample_padding > 1) {
    refuse("freq_shift and downsample_padding must be 0 or 1");
  }
  if (!(config.residual_scale > 0 && std::isfinite(config.residual_scale))) {
    refuse("residual_scale must be above 0 and finite; 1 leaves the sums as they are");
  }
  if (config.out_channels < 0 || config.num_classes < 0) {
    refuse("out_channels and num_classes must not be negative");
  }
  if (!(config.label_dropout >= 0 && config.label_dropout < 1)) {
    refuse("label_dropout must be in [0, 1)");
  }
  if (config.label_dropout > 0 && config.num_classes == 0) {
    refuse("label_dropout needs labels to drop; set num_classes, or label_dropout to 0");
  }
}

}  // namespace

void check_architecture(const ModelConfig& config, const data::ImageShape& shape) {
  check_widths(config);
  check_shape(config, shape);
  check_numbers(config);
  check_attention(config, shape);
}

bool attends(const ModelConfig& config, const data::ImageShape& shape, std::size_t level) {
  const auto& heights = config.attention_resolutions;
  return std::find(heights.begin(), heights.end(), static_cast<std::int64_t>(shape.height >> level)) != heights.end();
}

std::int64_t heads_of(const ModelConfig& config, std::int64_t channels) {
  if (config.attention_head_dim > 0) {
    return channels / config.attention_head_dim;
  }
  return config.attention_heads > 0 ? config.attention_heads : 1;
}

ModelConfig with_output_channels(ModelConfig config, const data::ImageShape& shape, VarianceType variance) {
  const bool learned = variance == VarianceType::learned_range;
  const std::int64_t needed = (learned ? 2 : 1) * static_cast<std::int64_t>(shape.channels);
  if (config.out_channels != 0 && config.out_channels != needed) {
    const std::string count = std::to_string(needed);
    refuse((learned ? "learned_range needs " : "a fixed variance needs ") + count + " output channels for images of " +
           std::to_string(shape.channels) + ", model.out_channels is " + std::to_string(config.out_channels) +
           "; set it to 0 or " + count);
  }
  config.out_channels = needed;
  return config;
}

}  // namespace perrin::trainer
