#include "trainer/model/layers.hpp"

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>

#include <cmath>
#include <stdexcept>

#include "trainer/model/architecture.hpp"
#include "trainer/model/doubled_convolution.hpp"
#include "trainer/model/packed.hpp"

namespace perrin::trainer {
namespace {

// Variance scale of output layers in Ho et al. 2020's code.
constexpr double kOutputScale = 1e-10;

struct InitialValues {
  Initializer weight, bias;
};

InitialValues initial_values(const ModelConfig& config, Role role, std::int64_t fan_in) {
  if (config.initialization == Initialization::ddpm) {
    return {{Initializer::Kind::xavier_uniform, role == Role::output ? kOutputScale : 1}, {}};
  }
  if (role == Role::output) {
    return {};
  }
  // PyTorch's kaiming_uniform with a = sqrt(5): sqrt(6 / ((1 + 5) fan_in)).
  const Initializer uniform{Initializer::Kind::uniform, 1 / std::sqrt(static_cast<double>(fan_in))};
  return {uniform, uniform};
}

std::int64_t embedding_width(const ModelConfig& config) { return 4 * config.block_out_channels.front(); }

at::Tensor resized(const at::Tensor& x, Resize resize) {
  switch (resize) {
    case Resize::down:
      return at::avg_pool2d(x, 2);
    case Resize::up:
      return at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)});
    case Resize::none:
      break;
  }
  return x;
}

// In place, and not at all for 1: what makes a sum does not need it for its gradient.
at::Tensor scaled(const at::Tensor& sum, double residual_scale) {
  return residual_scale == 1 ? sum : sum.mul_(residual_scale);
}

}  // namespace

Linear::Linear(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out,
               const ModelConfig& config, Role role) {
  const InitialValues initial = initial_values(config, role, in);
  weight = take({name + ".weight", {out, in}, initial.weight});
  bias = take({name + ".bias", {out}, initial.bias});
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  return at::linear(x.to(weight.scalar_type()), weight, bias.to(weight.scalar_type()));
}

Convolution::Convolution(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out,
                         std::int64_t kernel, const ModelConfig& config, Role role)
    : padding((kernel - 1) / 2) {
  const InitialValues initial = initial_values(config, role, in * kernel * kernel);
  weight = take({name + ".weight", {out, in, kernel, kernel}, initial.weight});
  bias = take({name + ".bias", {out}, initial.bias});
}

at::Tensor Convolution::operator()(const at::Tensor& x) const {
  return at::conv2d(x, weight, bias.to(weight.scalar_type()), stride, padding);
}

void Convolution::add_of_joined(at::Tensor& sum, const at::Tensor& x, const at::Tensor& skip) const {
  if (!skip.defined()) {
    sum.add_((*this)(x));
    return;
  }
  const std::int64_t first = x.size(1);
  sum.add_(at::conv2d(x, weight.narrow(1, 0, first), bias.to(weight.scalar_type())));
  sum.add_(at::conv2d(skip, weight.narrow(1, first, skip.size(1))));
}

at::Tensor Convolution::of_doubled(const at::Tensor& x) const {
  return convolution_of_doubled(x, weight, bias.to(weight.scalar_type()));
}

GroupNorm::GroupNorm(const TakeParameter& take, const std::string& name, std::int64_t channels,
                     const ModelConfig& config)
    : weight(take({name + ".weight", {channels}, {Initializer::Kind::ones}})),
      bias(take({name + ".bias", {channels}, {}})),
      groups(config.norm_num_groups),
      eps(config.norm_eps) {}

FusedNorm GroupNorm::with(Activation activation) const {
  return {.weight = weight, .bias = bias, .groups = groups, .eps = eps, .activation = activation};
}

ResnetBlock::ResnetBlock(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out,
                         const ModelConfig& config, std::uint32_t call_site, Resize resize)
    : norm1_(take, name + ".norm1", in, config),
      conv1_(take, name + ".conv1", in, out, 3, config),
      time_emb_proj_(take, name + ".time_emb_proj", embedding_width(config), config.scale_shift_norm ? 2 * out : out,
                     config),
      norm2_(take, name + ".norm2", out, config),
      conv2_(take, name + ".conv2", out, out, 3, config, Role::output),
      scale_shift_(config.scale_shift_norm),
      residual_scale_(config.residual_scale),
      dropout_(config.dropout),
      call_site_(call_site),
      resize_(resize) {
  if (in != out) {
    conv_shortcut_.emplace(take, name + ".conv_shortcut", in, out, 1, config);
  }
}

at::Tensor ResnetBlock::operator()(const at::Tensor& x, const at::Tensor& activated_temb, const ForwardContext& context,
                                   const at::Tensor& skip) const {
  const FusedNormOutputs first = fused_norm_and_inputs(x, skip, norm1_.with(Activation::silu));
  const at::Tensor h = resize_ == Resize::up ? conv1_.of_doubled(first.y) : conv1_(resized(first.y, resize_));
  at::Tensor sum = conv2_(fused_norm(h, {}, second_norm(activated_temb, context)));
  add_input(sum, first.x, first.skip);
  return scaled(sum, residual_scale_);
}

FusedNorm ResnetBlock::second_norm(const at::Tensor& activated_temb, const ForwardContext& context) const {
  FusedNorm norm = norm2_.with(Activation::silu);
  const at::Tensor embedded = time_emb_proj_(activated_temb);
  if (scale_shift_) {
    norm.scale = embedded.narrow(1, 0, norm2_.weight.size(0));
    norm.shift = embedded.narrow(1, norm2_.weight.size(0), norm2_.weight.size(0));
  } else {
    norm.add = embedded;
  }
  if (context.training && dropout_ > 0)
    norm.dropout = {
        {.seed = context.seed, .purpose = Purpose::dropout, .call_site = call_site_}, context.positions, 1 - dropout_};
  return norm;
}

void ResnetBlock::add_input(at::Tensor& sum, const at::Tensor& x, const at::Tensor& skip) const {
  // In place: a convolution's backward needs its input, not its output.
  if (conv_shortcut_)
    conv_shortcut_->add_of_joined(sum, resized(x, resize_), skip);
  else
    sum.add_(resized(skip.defined() ? at::cat({x, skip}, 1) : x, resize_));
}

SelfAttention::Projections::Projections(const TakeParameter& take, const std::string& name, std::int64_t channels,
                                        const ModelConfig& config) {
  const std::array<std::string, 3> names{name + ".to_q", name + ".to_k", name + ".to_v"};
  const InitialValues initial = initial_values(config, Role::inner, channels);
  for (std::size_t i = 0; i < names.size(); ++i) {
    weights[i] = take({names[i] + ".weight", {channels, channels}, initial.weight});
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    biases[i] = take({names[i] + ".bias", {channels}, initial.bias});
  }
}

SelfAttention::SelfAttention(const TakeParameter& take, const std::string& name, std::int64_t channels,
                             const ModelConfig& config)
    : group_norm_(take, name + ".group_norm", channels, config),
      projections_(take, name, channels, config),
      to_out_(take, name + ".to_out.0", channels, channels, config, Role::output),
      heads_(heads_of(config, channels)),
      residual_scale_(config.residual_scale) {}

at::Tensor SelfAttention::operator()(const at::Tensor& x) const {
  const std::int64_t batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  // [N, HW, C]: in channels-last a view, not a copy.
  const FusedNormOutputs normed = fused_norm_and_inputs(x, {}, group_norm_.with(Activation::none));
  const at::Tensor places = normed.y.permute({0, 2, 3, 1}).reshape({batch, height * width, channels});
  const at::Tensor weight = packed(projections_.weights), bias = packed(projections_.biases);
  const auto qkv = at::linear(places, weight, bias.to(weight.scalar_type()))
                       .view({batch, height * width, 3, heads_, channels / heads_})
                       .permute({2, 0, 3, 1, 4})
                       .unbind();
  const at::Tensor mixed = attention(qkv[0], qkv[1], qkv[2]);
  const at::Tensor out = to_out_(mixed.transpose(1, 2).reshape({batch, height * width, channels}));
  return scaled(normed.x + out.view({batch, height, width, channels}).permute({0, 3, 1, 2}), residual_scale_);
}

at::Tensor SelfAttention::attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  // LibTorch 2.11's flash attention on the CPU takes up to five times as long backward as the products themselves
  // (docs/performance.md); what it is for is not to hold the whole matrix of a large image.
  constexpr std::int64_t kMostPlaces = 1024;
  if (!q.is_cpu() || q.size(2) > kMostPlaces) return at::scaled_dot_product_attention(q, k, v);
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
  return at::matmul(at::softmax(at::matmul(q * scale, k.transpose(2, 3)), -1), v);
}

Resampler::Resampler(const TakeParameter& take, const std::string& name, std::int64_t channels,
                     const ModelConfig& config, Resize direction, std::uint32_t& call_sites)
    : direction_(direction),
      layer_(
          config.resample == Resample::resnet
              ? Layer(std::in_place_type<ResnetBlock>, take, name, channels, channels, config, call_sites++, direction)
              : Layer(std::in_place_type<Convolution>, take, name + ".conv", channels, channels, 3, config)) {
  if (Convolution* conv = std::get_if<Convolution>(&layer_); conv != nullptr && direction == Resize::down) {
    conv->stride = 2;
    conv->padding = config.downsample_padding;
  }
}

at::Tensor Resampler::operator()(const at::Tensor& x, const at::Tensor& activated_temb,
                                 const ForwardContext& context) const {
  if (const ResnetBlock* block = std::get_if<ResnetBlock>(&layer_)) {
    return (*block)(x, activated_temb, context);
  }
  const auto& conv = std::get<Convolution>(layer_);
  if (direction_ == Resize::up) {
    return conv.of_doubled(x);
  }
  // Padding 0 is TensorFlow's SAME: zeros on the right and below only.
  return conv(conv.padding == 0 ? at::constant_pad_nd(x, {0, 1, 0, 1}) : x);
}

TimeEmbedding::TimeEmbedding(const TakeParameter& take, const std::string& name, const ModelConfig& config)
    : linear_1_(take, name + ".linear_1", config.block_out_channels.front(), embedding_width(config), config),
      linear_2_(take, name + ".linear_2", embedding_width(config), embedding_width(config), config),
      cosines_first_(config.flip_sin_to_cos),
      timestep_scale_(config.timestep_scale) {
  if (!linear_1_.weight.defined()) {
    return;  // only the list of parameters is wanted
  }
  // In float32 (float64 for weights of that type) and in this order of operations, as diffusers does: at t = 999 one
  // unit in the last place of a float32 frequency moves the sine by 6e-5, so a more exact table would agree less with
  // those who sample the exported weights.
  const std::int64_t half = config.block_out_channels.front() / 2;
  const at::TensorOptions options =
      linear_1_.weight.options().requires_grad(false).dtype(at::toOpMathType(linear_1_.weight.scalar_type()));
  const at::Tensor exponents = -std::log(10000.0) * at::arange(half, options);
  frequencies_ = at::exp(exponents / static_cast<double>(half - config.freq_shift));
}

at::Tensor TimeEmbedding::operator()(const at::Tensor& t) const {
  const at::Tensor angles = (t.to(frequencies_.scalar_type()) * timestep_scale_).unsqueeze(1) * frequencies_;
  const at::Tensor sines = angles.sin(), cosines = angles.cos();
  return linear_2_(at::silu(linear_1_(cosines_first_ ? at::cat({cosines, sines}, 1) : at::cat({sines, cosines}, 1))));
}

ClassEmbedding::ClassEmbedding(const TakeParameter& take, const std::string& name, const ModelConfig& config)
    : weight_(take({name + ".weight", {config.num_classes, embedding_width(config)}, {Initializer::Kind::normal}})) {}

at::Tensor ClassEmbedding::operator()(const at::Tensor& labels) const {
  return at::embedding(weight_, labels.clamp_min(0)).masked_fill((labels < 0).unsqueeze(1), 0);
}

}  // namespace perrin::trainer
