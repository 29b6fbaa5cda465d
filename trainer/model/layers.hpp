#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "trainer/config.hpp"
#include "trainer/model/parameter_spec.hpp"
#include "trainer/model/unet.hpp"

/// The layers of the U-Net. Each is made by asking for its parameters in forward order, so that one description of the
/// network yields both the list of parameters and the network.
namespace perrin::trainer {

/// Receives each parameter as a layer is made; gives its tensor (undefined where only the list is wanted).
using TakeParameter = std::function<at::Tensor(const ParameterSpec&)>;

/// Variance scale of the layers that end a residual branch or the network: they start as almost nothing (Ho et al.
/// 2020's code).
inline constexpr double kOutputScale = 1e-10;

/// y = x W^T + b on the last dimension.
struct Linear {
  Linear(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out, double scale = 1.0);
  at::Tensor operator()(const at::Tensor& x) const;
  at::Tensor weight, bias;
};

/// 2-D convolution that keeps the size (kernel 3, padding 1; or kernel 1), unless stride and padding say otherwise.
struct Convolution {
  Convolution(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out,
              std::int64_t kernel, double scale = 1.0);
  at::Tensor operator()(const at::Tensor& x) const;
  at::Tensor weight, bias;
  std::int64_t stride = 1;
  std::int64_t padding;
};

/// Group normalisation with affine output.
struct GroupNorm {
  GroupNorm(const TakeParameter& take, const std::string& name, std::int64_t channels, const ModelConfig& config);
  at::Tensor operator()(const at::Tensor& x) const;
  at::Tensor weight, bias;
  std::int64_t groups;
  double eps;
};

/// x + conv2(dropout(SiLU(norm2(conv1(SiLU(norm1(x))) + project(SiLU(temb)))))), with a 1x1 convolution of x where the
/// width changes.
class ResnetBlock {
 public:
  /// @param call_site  number of the block in forward order, which keys its dropout
  ResnetBlock(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out,
              const ModelConfig& config, std::uint32_t call_site);
  /// @param activated_temb  SiLU(temb), [N, 4 * block_out_channels[0]]
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& activated_temb, const ForwardContext& context) const;

 private:
  at::Tensor dropout(const at::Tensor& h, const ForwardContext& context) const;

  GroupNorm norm1_;
  Convolution conv1_;
  Linear time_emb_proj_;
  GroupNorm norm2_;
  Convolution conv2_;
  std::optional<Convolution> conv_shortcut_;
  double dropout_;
  std::uint32_t call_site_;
};

/// x + to_out(attention(to_q, to_k, to_v of norm(x))) over the H * W places of an image.
class SelfAttention {
 public:
  SelfAttention(const TakeParameter& take, const std::string& name, std::int64_t channels, const ModelConfig& config);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  GroupNorm group_norm_;
  at::Tensor weight_q_, weight_k_, weight_v_, bias_q_, bias_k_, bias_v_;
  Linear to_out_;
  std::int64_t heads_;
};

/// Halves the size: zeros on the right and below (TensorFlow's SAME), then a 3x3 convolution of stride 2.
class Downsample {
 public:
  Downsample(const TakeParameter& take, const std::string& name, std::int64_t channels);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  Convolution conv_;
};

/// Doubles the size by nearest neighbour, then a 3x3 convolution.
class Upsample {
 public:
  Upsample(const TakeParameter& take, const std::string& name, std::int64_t channels);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  Convolution conv_;
};

/// [sin(t f_i), cos(t f_i)] through two linear layers; f_i = 10000^(-i / (half - 1)), half = channels / 2.
class TimeEmbedding {
 public:
  TimeEmbedding(const TakeParameter& take, const std::string& name, std::int64_t channels);
  /// @param t  [N]   @return [N, 4 * channels] of the weights' type
  at::Tensor operator()(const at::Tensor& t) const;

 private:
  Linear linear_1_;
  Linear linear_2_;
  at::Tensor frequencies_;  // [half]
};

}  // namespace perrin::trainer
