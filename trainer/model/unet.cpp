#include "trainer/model/unet.hpp"

#include <ATen/ATen.h>

#include <optional>
#include <stdexcept>
#include <utility>

#include "trainer/model/architecture.hpp"
#include "trainer/model/layers.hpp"

namespace perrin::trainer {
namespace {

// Residual blocks at one resolution, each followed by an attention where the level has them, then a change of
// resolution.
struct Level {
  std::vector<ResnetBlock> resnets;
  std::vector<SelfAttention> attentions;  // as many as resnets, or none
  std::optional<Resampler> resampler;
};

std::int64_t output_channels(const ModelConfig& model, const data::ImageShape& image) {
  return model.out_channels == 0 ? image.channels : model.out_channels;
}

void check_labels(const at::Tensor& labels, std::int64_t batch, std::int64_t classes) {
  if (!labels.defined()) {
    return;
  }
  if (classes == 0) {
    throw std::invalid_argument("UNet: labels were given to a network without classes; set model.num_classes");
  }
  if (labels.dim() != 1 || labels.size(0) != batch || labels.scalar_type() != at::kLong) {
    throw std::invalid_argument("UNet: labels of shape " + c10::str(labels.sizes()) + " and type " +
                                c10::toString(labels.scalar_type()) + " for a batch of " + std::to_string(batch) +
                                "; int64 is needed");
  }
  // On CUDA looking would wait for the device; there the embedding's own assertion fails.
  if (labels.is_cpu() && batch > 0 &&
      (labels.min().item<std::int64_t>() < -1 || labels.max().item<std::int64_t>() >= classes)) {
    throw std::invalid_argument("UNet: labels must be in [0, " + std::to_string(classes) + "), or -1 for none");
  }
}

}  // namespace

struct UNet::Network {
  // The one description of the architecture: members are made, and their parameters taken, in forward order.
  Network(const ModelConfig& model, const data::ImageShape& image, const TakeParameter& take, at::MemoryFormat format)
      : shape(image),
        classes(model.num_classes),
        dropout(model.dropout > 0),
        activations(format),
        time_embedding(take, "time_embedding", model),
        class_embedding(make_class_embedding(model, take)),
        conv_in(take, "conv_in", image.channels, model.block_out_channels.front(), 3, model),
        down_blocks(make_down_blocks(model, take)),
        mid_resnet_0(take, "mid_block.resnets.0", model.block_out_channels.back(), model.block_out_channels.back(),
                     model, call_sites++),
        mid_attention(take, "mid_block.attentions.0", model.block_out_channels.back(), model),
        mid_resnet_1(take, "mid_block.resnets.1", model.block_out_channels.back(), model.block_out_channels.back(),
                     model, call_sites++),
        up_blocks(make_up_blocks(model, take)),
        conv_norm_out(take, "conv_norm_out", model.block_out_channels.front(), model),
        conv_out(take, "conv_out", model.block_out_channels.front(), output_channels(model, image), 3, model,
                 Role::output) {}

  at::Tensor embed(const at::Tensor& t, const at::Tensor& labels) const {
    const at::Tensor temb = time_embedding(t);
    return labels.defined() ? temb + (*class_embedding)(labels) : temb;
  }

  at::Tensor forward(const at::Tensor& x_t, const at::Tensor& t, const ForwardContext& context) const {
    const at::Tensor activated_temb = at::silu(embed(t, context.labels));
    std::vector<at::Tensor> skips;
    at::Tensor h = conv_in(x_t.to(conv_in.weight.scalar_type()).contiguous(activations));
    skips.push_back(h);
    for (const Level& level : down_blocks) {
      for (std::size_t i = 0; i < level.resnets.size(); ++i) {
        h = level.resnets[i](h, activated_temb, context);
        if (!level.attentions.empty()) {
          h = level.attentions[i](h);
        }
        skips.push_back(h);
      }
      if (level.resampler) {
        h = (*level.resampler)(h, activated_temb, context);
        skips.push_back(h);
      }
    }
    h = mid_resnet_1(mid_attention(mid_resnet_0(h, activated_temb, context)), activated_temb, context);
    for (const Level& level : up_blocks) {
      for (std::size_t i = 0; i < level.resnets.size(); ++i) {
        h = level.resnets[i](h, activated_temb, context, skips.back());
        skips.pop_back();
        if (!level.attentions.empty()) {
          h = level.attentions[i](h);
        }
      }
      if (level.resampler) {
        h = (*level.resampler)(h, activated_temb, context);
      }
    }
    return conv_out(fused_norm(h, {}, conv_norm_out.with(Activation::silu))).to(x_t.scalar_type());
  }

  data::ImageShape shape;
  std::int64_t classes;
  bool dropout;
  at::MemoryFormat activations;
  std::uint32_t call_sites = 0;           // residual blocks made so far
  std::vector<std::int64_t> skip_widths;  // channels of the skips not yet taken up again
  TimeEmbedding time_embedding;
  std::optional<ClassEmbedding> class_embedding;
  Convolution conv_in;
  std::vector<Level> down_blocks;
  ResnetBlock mid_resnet_0;
  SelfAttention mid_attention;
  ResnetBlock mid_resnet_1;
  std::vector<Level> up_blocks;
  GroupNorm conv_norm_out;
  Convolution conv_out;

 private:
  static std::optional<ClassEmbedding> make_class_embedding(const ModelConfig& model, const TakeParameter& take) {
    return model.num_classes == 0 ? std::nullopt : std::optional<ClassEmbedding>({take, "class_embedding", model});
  }

  void add_layer(Level& level, const ModelConfig& model, const TakeParameter& take, const std::string& block,
                 std::int64_t in, std::int64_t out, bool attention) {
    const std::string index = std::to_string(level.resnets.size());
    level.resnets.emplace_back(take, block + ".resnets." + index, in, out, model, call_sites++);
    if (attention) {
      level.attentions.emplace_back(take, block + ".attentions." + index, out, model);
    }
  }

  std::vector<Level> make_down_blocks(const ModelConfig& model, const TakeParameter& take) {
    const auto& widths = model.block_out_channels;
    std::vector<Level> blocks(widths.size());
    skip_widths = {widths.front()};
    std::int64_t in = widths.front();
    for (std::size_t level = 0; level < widths.size(); ++level) {
      const std::string name = "down_blocks." + std::to_string(level);
      for (std::int64_t layer = 0; layer < model.layers_per_block; ++layer) {
        add_layer(blocks[level], model, take, name, in, widths[level], attends(model, shape, level));
        in = widths[level];
        skip_widths.push_back(in);
      }
      if (level + 1 < widths.size()) {
        blocks[level].resampler.emplace(take, name + ".downsamplers.0", in, model, Resize::down, call_sites);
        skip_widths.push_back(in);
      }
    }
    return blocks;
  }

  // up_blocks.0 is the coarsest level. Each has one layer more than its counterpart on the way down: the skip of the
  // resolution change.
  std::vector<Level> make_up_blocks(const ModelConfig& model, const TakeParameter& take) {
    const auto& widths = model.block_out_channels;
    std::vector<Level> blocks(widths.size());
    std::int64_t in = widths.back();
    for (std::size_t block = 0; block < widths.size(); ++block) {
      const std::size_t level = widths.size() - 1 - block;
      const std::string name = "up_blocks." + std::to_string(block);
      for (std::int64_t layer = 0; layer <= model.layers_per_block; ++layer) {
        add_layer(blocks[block], model, take, name, in + skip_widths.back(), widths[level],
                  attends(model, shape, level));
        skip_widths.pop_back();
        in = widths[level];
      }
      if (level > 0) {
        blocks[block].resampler.emplace(take, name + ".upsamplers.0", in, model, Resize::up, call_sites);
      }
    }
    return blocks;
  }
};

std::vector<ParameterSpec> unet_parameters(const ModelConfig& config, const data::ImageShape& shape) {
  check_architecture(config, shape);
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
  check_architecture(config, shape);
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
  if (t.dim() != 1 || t.size(0) != x_t.size(0) || !(t.scalar_type() == at::kLong || t.is_floating_point())) {
    throw std::invalid_argument("UNet: t has shape " + c10::str(t.sizes()) + " and type " +
                                c10::toString(t.scalar_type()) + " for a batch of " + std::to_string(x_t.size(0)) +
                                "; int64 or a floating type is needed");
  }
  check_labels(context.labels, x_t.size(0), network_->classes);
  if (network_->dropout && context.training && context.positions.size() != static_cast<std::size_t>(x_t.size(0))) {
    throw std::invalid_argument("UNet: dropout is keyed by sample; " + std::to_string(context.positions.size()) +
                                " positions were given for a batch of " + std::to_string(x_t.size(0)));
  }
  return network_->forward(x_t, t, context);
}

}  // namespace perrin::trainer
