#include "trainer/model/layers.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <stdexcept>

#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

Initializer xavier(double scale) { return {Initializer::Kind::xavier_uniform, scale}; }

ParameterSpec bias_of(const std::string& name, std::int64_t size) { return {name + ".bias", {size}, {}}; }

}  // namespace

Linear::Linear(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out, double scale)
    : weight(take({name + ".weight", {out, in}, xavier(scale)})), bias(take(bias_of(name, out))) {}

at::Tensor Linear::operator()(const at::Tensor& x) const { return at::linear(x, weight, bias); }

Convolution::Convolution(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out,
                         std::int64_t kernel, double scale)
    : weight(take({name + ".weight", {out, in, kernel, kernel}, xavier(scale)})),
      bias(take(bias_of(name, out))),
      padding((kernel - 1) / 2) {}

at::Tensor Convolution::operator()(const at::Tensor& x) const { return at::conv2d(x, weight, bias, stride, padding); }

GroupNorm::GroupNorm(const TakeParameter& take, const std::string& name, std::int64_t channels,
                     const ModelConfig& config)
    : weight(take({name + ".weight", {channels}, {Initializer::Kind::ones}})),
      bias(take(bias_of(name, channels))),
      groups(config.norm_num_groups),
      eps(config.norm_eps) {}

at::Tensor GroupNorm::operator()(const at::Tensor& x) const { return at::group_norm(x, groups, weight, bias, eps); }

ResnetBlock::ResnetBlock(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out,
                         const ModelConfig& config, std::uint32_t call_site)
    : norm1_(take, name + ".norm1", in, config),
      conv1_(take, name + ".conv1", in, out, 3),
      time_emb_proj_(take, name + ".time_emb_proj", 4 * config.block_out_channels.front(), out),
      norm2_(take, name + ".norm2", out, config),
      conv2_(take, name + ".conv2", out, out, 3, kOutputScale),
      dropout_(config.dropout),
      call_site_(call_site) {
  if (in != out) {
    conv_shortcut_.emplace(take, name + ".conv_shortcut", in, out, 1);
  }
}

at::Tensor ResnetBlock::operator()(const at::Tensor& x, const at::Tensor& activated_temb,
                                   const ForwardContext& context) const {
  // The sums are taken in place: a convolution's backward needs its input, not its output.
  at::Tensor h = conv1_(at::silu(norm1_(x)));
  h.add_(time_emb_proj_(activated_temb).unsqueeze(-1).unsqueeze(-1));
  h = conv2_(dropout(at::silu(norm2_(h)), context));
  return h.add_(conv_shortcut_ ? (*conv_shortcut_)(x) : x);
}

at::Tensor ResnetBlock::dropout(const at::Tensor& h, const ForwardContext& context) const {
  if (!context.training || dropout_ == 0) {
    return h;
  }
  const Stream stream{.seed = context.seed, .purpose = Purpose::dropout, .call_site = call_site_};
  const at::Tensor factors = keyed_dropout(stream, context.positions, h.sizes().slice(1), 1 - dropout_);
  return h * factors.to(h.options(), /*non_blocking=*/false, /*copy=*/false, h.suggest_memory_format());
}

SelfAttention::SelfAttention(const TakeParameter& take, const std::string& name, std::int64_t channels,
                             const ModelConfig& config)
    : group_norm_(take, name + ".group_norm", channels, config),
      weight_q_(take({name + ".to_q.weight", {channels, channels}, xavier(1)})),
      weight_k_(take({name + ".to_k.weight", {channels, channels}, xavier(1)})),
      weight_v_(take({name + ".to_v.weight", {channels, channels}, xavier(1)})),
      bias_q_(take(bias_of(name + ".to_q", channels))),
      bias_k_(take(bias_of(name + ".to_k", channels))),
      bias_v_(take(bias_of(name + ".to_v", channels))),
      to_out_(take, name + ".to_out.0", channels, channels, kOutputScale),
      heads_(config.attention_head_dim == 0 ? 1 : channels / config.attention_head_dim) {}

at::Tensor SelfAttention::operator()(const at::Tensor& x) const {
  const std::int64_t batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  // [N, HW, C]: in channels-last a view, not a copy.
  const at::Tensor places = group_norm_(x).permute({0, 2, 3, 1}).reshape({batch, height * width, channels});
  const auto heads_of = [&](const at::Tensor& weight, const at::Tensor& bias) {
    return at::linear(places, weight, bias).view({batch, height * width, heads_, channels / heads_}).transpose(1, 2);
  };
  const at::Tensor mixed = at::scaled_dot_product_attention(heads_of(weight_q_, bias_q_), heads_of(weight_k_, bias_k_),
                                                            heads_of(weight_v_, bias_v_));
  const at::Tensor out = to_out_(mixed.transpose(1, 2).reshape({batch, height * width, channels}));
  return x + out.view({batch, height, width, channels}).permute({0, 3, 1, 2});
}

Downsample::Downsample(const TakeParameter& take, const std::string& name, std::int64_t channels)
    : conv_(take, name + ".conv", channels, channels, 3) {
  conv_.stride = 2;
  conv_.padding = 0;
}

at::Tensor Downsample::operator()(const at::Tensor& x) const { return conv_(at::constant_pad_nd(x, {0, 1, 0, 1})); }

Upsample::Upsample(const TakeParameter& take, const std::string& name, std::int64_t channels)
    : conv_(take, name + ".conv", channels, channels, 3) {}

at::Tensor Upsample::operator()(const at::Tensor& x) const {
  return conv_(at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}));
}

TimeEmbedding::TimeEmbedding(const TakeParameter& take, const std::string& name, std::int64_t channels)
    : linear_1_(take, name + ".linear_1", channels, 4 * channels),
      linear_2_(take, name + ".linear_2", 4 * channels, 4 * channels) {
  if (!linear_1_.weight.defined()) {
    return;  // only the list of parameters is wanted
  }
  // In the weights' own precision and in this order of operations, as diffusers does: at t = 999 one unit in the last
  // place of a float32 frequency moves the sine by 6e-5, so a more exact table would agree less with those who sample
  // the exported weights.
  const std::int64_t half = channels / 2;
  const at::Tensor exponents = -std::log(10000.0) * at::arange(half, linear_1_.weight.options().requires_grad(false));
  frequencies_ = at::exp(exponents / static_cast<double>(half - 1));
}

at::Tensor TimeEmbedding::operator()(const at::Tensor& t) const {
  const at::Tensor angles = t.to(frequencies_.scalar_type()).unsqueeze(1) * frequencies_;
  return linear_2_(at::silu(linear_1_(at::cat({angles.sin(), angles.cos()}, 1))));
}

}  // namespace perrin::trainer
