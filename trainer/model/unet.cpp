#include "trainer/model/unet.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <utility>

#include "trainer/model/layers.hpp"

namespace perrin::trainer {
namespace {

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument("model: " + reason); }

void check_configuration(const ModelConfig& config, const data::ImageShape& shape) {
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
    if (config.attention_head_dim < 0 || (config.attention_head_dim > 0 && width % config.attention_head_dim != 0)) {
      refuse("attention_head_dim = " + std::to_string(config.attention_head_dim) + " does not divide the " +
             std::to_string(width) + " channels of a level; 0 means a single head");
    }
  }
  if (widths.front() < 4 || widths.front() % 2 != 0) {
    refuse("block_out_channels[0] = " + std::to_string(widths.front()) +
           " holds the sines and cosines of the time embedding: it must be even and at least 4");
  }
  const std::uint32_t factor = 1u << (widths.size() - 1);
  if (shape.channels == 0 || shape.height == 0 || shape.width == 0 || shape.height % factor != 0 ||
      shape.width % factor != 0) {
    refuse("images of " + std::to_string(shape.height) + "x" + std::to_string(shape.width) + " cannot be halved " +
           std::to_string(widths.size() - 1) +
           " times; use fewer levels in block_out_channels, or pad the images to a multiple of " +
           std::to_string(factor));
  }
  if (!(config.dropout >= 0 && config.dropout < 1) || !(config.norm_eps > 0)) {
    refuse("dropout must be in [0, 1) and norm_eps above 0");
  }
}

// Residual blocks at one resolution, each followed by an attention where the level has them, then a change of
// resolution.
template <typename Resample>
struct Level {
  std::vector<ResnetBlock> resnets;
  std::vector<SelfAttention> attentions;  // as many as resnets, or none
  std::optional<Resample> resample;
};

}  // namespace

struct UNet::Network {
  // The one description of the architecture: members are made, and their parameters taken, in forward order.
  Network(const ModelConfig& model, const data::ImageShape& image, const TakeParameter& take, at::MemoryFormat format)
      : shape(image),
        dropout(model.dropout > 0),
        activations(format),
        time_embedding(take, "time_embedding", model.block_out_channels.front()),
        conv_in(take, "conv_in", image.channels, model.block_out_channels.front(), 3),
        down_blocks(make_down_blocks(model, take)),
        mid_resnet_0(take, "mid_block.resnets.0", model.block_out_channels.back(), model.block_out_channels.back(),
                     model, call_sites++),
        mid_attention(take, "mid_block.attentions.0", model.block_out_channels.back(), model),
        mid_resnet_1(take, "mid_block.resnets.1", model.block_out_channels.back(), model.block_out_channels.back(),
                     model, call_sites++),
        up_blocks(make_up_blocks(model, take)),
        conv_norm_out(take, "conv_norm_out", model.block_out_channels.front(), model),
        conv_out(take, "conv_out", model.block_out_channels.front(), image.channels, 3, kOutputScale) {}

  at::Tensor forward(const at::Tensor& x_t, const at::Tensor& t, const ForwardContext& context) const {
    const at::Tensor activated_temb = at::silu(time_embedding(t));
    std::vector<at::Tensor> skips;
    at::Tensor h = conv_in(x_t.contiguous(activations));
    skips.push_back(h);
    for (const Level<Downsample>& level : down_blocks) {
      for (std::size_t i = 0; i < level.resnets.size(); ++i) {
        h = level.resnets[i](h, activated_temb, context);
        if (!level.attentions.empty()) {
          h = level.attentions[i](h);
        }
        skips.push_back(h);
      }
      if (level.resample) {
        h = (*level.resample)(h);
        skips.push_back(h);
      }
    }
    h = mid_resnet_1(mid_attention(mid_resnet_0(h, activated_temb, context)), activated_temb, context);
    for (const Level<Upsample>& level : up_blocks) {
      for (std::size_t i = 0; i < level.resnets.size(); ++i) {
        h = level.resnets[i](at::cat({h, skips.back()}, 1), activated_temb, context);
        skips.pop_back();
        if (!level.attentions.empty()) {
          h = level.attentions[i](h);
        }
      }
      if (level.resample) {
        h = (*level.resample)(h);
      }
    }
    return conv_out(at::silu(conv_norm_out(h)));
  }

  data::ImageShape shape;
  bool dropout;
  at::MemoryFormat activations;
  std::uint32_t call_sites = 0;           // residual blocks made so far
  std::vector<std::int64_t> skip_widths;  // channels of the skips not yet taken up again
  TimeEmbedding time_embedding;
  Convolution conv_in;
  std::vector<Level<Downsample>> down_blocks;
  ResnetBlock mid_resnet_0;
  SelfAttention mid_attention;
  ResnetBlock mid_resnet_1;
  std::vector<Level<Upsample>> up_blocks;
  GroupNorm conv_norm_out;
  Convolution conv_out;

 private:
  bool attends(const ModelConfig& model, std::size_t level) const {
    const auto& heights = model.attention_resolutions;
    return std::find(heights.begin(), heights.end(), static_cast<std::int64_t>(shape.height >> level)) != heights.end();
  }

  template <typename Resample>
  void add_layer(Level<Resample>& level, const ModelConfig& model, const TakeParameter& take, const std::string& block,
                 std::int64_t in, std::int64_t out, bool attention) {
    const std::string index = std::to_string(level.resnets.size());
    level.resnets.emplace_back(take, block + ".resnets." + index, in, out, model, call_sites++);
    if (attention) {
      level.attentions.emplace_back(take, block + ".attentions." + index, out, model);
    }
  }

  std::vector<Level<Downsample>> make_down_blocks(const ModelConfig& model, const TakeParameter& take) {
    const auto& widths = model.block_out_channels;
    std::vector<Level<Downsample>> blocks(widths.size());
    skip_widths = {widths.front()};
    std::int64_t in = widths.front();
    for (std::size_t level = 0; level < widths.size(); ++level) {
      const std::string name = "down_blocks." + std::to_string(level);
      for (std::int64_t layer = 0; layer < model.layers_per_block; ++layer) {
        add_layer(blocks[level], model, take, name, in, widths[level], attends(model, level));
        in = widths[level];
        skip_widths.push_back(in);
      }
      if (level + 1 < widths.size()) {
        blocks[level].resample.emplace(take, name + ".downsamplers.0", in);
        skip_widths.push_back(in);
      }
    }
    return blocks;
  }

  // up_blocks.0 is the coarsest level. Each has one layer more than its counterpart on the way down: the skip of the
  // resolution change.
  std::vector<Level<Upsample>> make_up_blocks(const ModelConfig& model, const TakeParameter& take) {
    const auto& widths = model.block_out_channels;
    std::vector<Level<Upsample>> blocks(widths.size());
    std::int64_t in = widths.back();
    for (std::size_t block = 0; block < widths.size(); ++block) {
      const std::size_t level = widths.size() - 1 - block;
      const std::string name = "up_blocks." + std::to_string(block);
      for (std::int64_t layer = 0; layer <= model.layers_per_block; ++layer) {
        add_layer(blocks[block], model, take, name, in + skip_widths.back(), widths[level], attends(model, level));
        skip_widths.pop_back();
        in = widths[level];
      }
      if (level > 0) {
        blocks[block].resample.emplace(take, name + ".upsamplers.0", in);
      }
    }
    return blocks;
  }
};

std::vector<ParameterSpec> unet_parameters(const ModelConfig& config, const data::ImageShape& shape) {
  check_configuration(config, shape);
  std::vector<ParameterSpec> parameters;
  const TakeParameter record = [&parameters](const ParameterSpec& spec) {
    parameters.push_back(spec);
    return at::Tensor();
  };
  const UNet::Network listed(config, shape, record, at::MemoryFormat::ChannelsLast);
  return parameters;
}

UNet::UNet(const ModelConfig& config, const data::ImageShape& shape, const ParameterLookup& lookup,
           at::MemoryFormat activations) {
  check_configuration(config, shape);
  const TakeParameter take = [&lookup](const ParameterSpec& spec) {
    at::Tensor tensor = lookup(spec.name);
    if (!tensor.defined() || tensor.sizes() != at::IntArrayRef(spec.shape)) {
      throw std::invalid_argument("UNet: " + spec.name + " must have shape " + c10::str(at::IntArrayRef(spec.shape)) +
                                  ", got " + (tensor.defined() ? c10::str(tensor.sizes()) : std::string("no tensor")));
    }
    return tensor;
  };
  network_ = std::make_unique<const Network>(config, shape, take, activations);
}

UNet::UNet(UNet&&) noexcept = default;
UNet& UNet::operator=(UNet&&) noexcept = default;
UNet::~UNet() = default;

at::Tensor UNet::operator()(const at::Tensor& x_t, const at::Tensor& t, const ForwardContext& context) const {
  const data::ImageShape& shape = network_->shape;
  if (x_t.dim() != 4 || x_t.size(1) != shape.channels || x_t.size(2) != shape.height || x_t.size(3) != shape.width) {
    throw std::invalid_argument("UNet: x_t has shape " + c10::str(x_t.sizes()) + ", the network was made for " +
                                std::to_string(shape.channels) + "x" + std::to_string(shape.height) + "x" +
                                std::to_string(shape.width));
  }
  if (t.dim() != 1 || t.size(0) != x_t.size(0)) {
    throw std::invalid_argument("UNet: t has shape " + c10::str(t.sizes()) + " for a batch of " +
                                std::to_string(x_t.size(0)));
  }
  if (network_->dropout && context.training && context.positions.size() != static_cast<std::size_t>(x_t.size(0))) {
    throw std::invalid_argument("UNet: dropout is keyed by sample; " + std::to_string(context.positions.size()) +
                                " positions were given for a batch of " + std::to_string(x_t.size(0)));
  }
  return network_->forward(x_t, t, context);
}

}  // namespace perrin::trainer
