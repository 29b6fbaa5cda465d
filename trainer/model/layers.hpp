#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>

#include "trainer/config.hpp"
#include "trainer/model/fused_norm.hpp"
#include "trainer/model/parameter_spec.hpp"
#include "trainer/model/unet.hpp"

/// The layers of the U-Net. Each is made by asking for its parameters in forward order, so that one description of the
/// network yields both the list of parameters and the network.
namespace perrin::trainer {

/// Receives each parameter as a layer is made; gives its tensor (undefined where only the list is wanted).
using TakeParameter = std::function<at::Tensor(const ParameterSpec&)>;

/// Where a layer stands. Those that end a residual branch or the network start as nothing, or almost (ddpm: Xavier with
/// variance scale 1e-10; adm: 0), so that every block starts as the identity.
enum class Role { inner, output };

/// y = x W^T + b on the last dimension.
struct Linear {
  Linear(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out,
         const ModelConfig& config, Role role = Role::inner);
  at::Tensor operator()(const at::Tensor& x) const;
  at::Tensor weight, bias;
};

/// 2-D convolution that keeps the size (kernel 3, padding 1; or kernel 1), unless stride and padding say otherwise.
struct Convolution {
  Convolution(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out,
              std::int64_t kernel, const ModelConfig& config, Role role = Role::inner);
  at::Tensor operator()(const at::Tensor& x) const;
  /// Adds the same (kernel 1) of x and skip, joined along the channels without a copy; skip undefined: of x.
  void add_of_joined(at::Tensor& sum, const at::Tensor& x, const at::Tensor& skip) const;
  /// The same (kernel 3) of x doubled by nearest neighbour. @return [N, out, 2 H, 2 W]
  at::Tensor of_doubled(const at::Tensor& x) const;
  at::Tensor weight, bias;
  std::int64_t stride = 1;
  std::int64_t padding;
};

/// Group normalisation with affine output.
struct GroupNorm {
  GroupNorm(const TakeParameter& take, const std::string& name, std::int64_t channels, const ModelConfig& config);
  /// What the fused operator is told; the caller adds what else it is to do.
  FusedNorm with(Activation activation) const;
  at::Tensor weight, bias;
  std::int64_t groups;
  double eps;
};

/// A change of resolution by 2: down by the mean of 2x2 pixels, up by nearest neighbour.
enum class Resize { none, down, up };

/// residual_scale (x + conv2(dropout(SiLU(norm2(h + e))))), h = conv1(SiLU(norm1(x))), e a linear layer of SiLU(temb);
/// with scale_shift_norm norm2(h) (1 + e_1) + e_2 instead of norm2(h + e) (Nichol & Dhariwal 2021, section 3). x passes
/// a 1x1 convolution where the width changes; x and what enters conv1 are resized (Dhariwal & Nichol 2021, after
/// BigGAN).
class ResnetBlock {
 public:
  /// @param call_site  number of the block in forward order, which keys its dropout
  ResnetBlock(const TakeParameter& take, const std::string& name, std::int64_t in, std::int64_t out,
              const ModelConfig& config, std::uint32_t call_site, Resize resize = Resize::none);
  /// @param activated_temb  SiLU(temb), [N, 4 * block_out_channels[0]]
  /// @param skip  joined to x along the channels; undefined: none
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& activated_temb, const ForwardContext& context,
                        const at::Tensor& skip = {}) const;

 private:
  /// norm2 with the time embedding, SiLU and dropout.
  FusedNorm second_norm(const at::Tensor& activated_temb, const ForwardContext& context) const;
  /// Adds what goes around the convolutions to what comes out of them.
  void add_input(at::Tensor& sum, const at::Tensor& x, const at::Tensor& skip) const;

  GroupNorm norm1_;
  Convolution conv1_;
  Linear time_emb_proj_;
  GroupNorm norm2_;
  Convolution conv2_;
  std::optional<Convolution> conv_shortcut_;
  bool scale_shift_;
  double residual_scale_;
  double dropout_;
  std::uint32_t call_site_;
  Resize resize_;
};

/// residual_scale (x + to_out(attention(to_q, to_k, to_v of norm(x)))) over the H * W places of an image.
class SelfAttention {
 public:
  SelfAttention(const TakeParameter& take, const std::string& name, std::int64_t channels, const ModelConfig& config);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  /// softmax(q k^T / sqrt(d)) v. @param q, k, v  [N, heads, places, d], any strides
  static at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

  // Of to_q, to_k and to_v; the three weights are adjacent in memory, and so are the biases.
  struct Projections {
    Projections(const TakeParameter& take, const std::string& name, std::int64_t channels, const ModelConfig& config);
    std::array<at::Tensor, 3> weights, biases;
  };

  GroupNorm group_norm_;
  Projections projections_;
  Linear to_out_;
  std::int64_t heads_;
  double residual_scale_;
};

/// The change of resolution at the end of a level.
///   conv    down: a 3x3 convolution of stride 2; up: nearest neighbour, then a 3x3 convolution
///   resnet  a residual block that resizes
class Resampler {
 public:
  /// @param call_sites  the number of residual blocks so far; grows where this is one
  Resampler(const TakeParameter& take, const std::string& name, std::int64_t channels, const ModelConfig& config,
            Resize direction, std::uint32_t& call_sites);
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& activated_temb, const ForwardContext& context) const;

 private:
  using Layer = std::variant<Convolution, ResnetBlock>;

  Resize direction_;
  Layer layer_;
};

/// [sin(s t f_i), cos(s t f_i)], or cosines first with flip_sin_to_cos, through two linear layers; s = timestep_scale,
/// f_i = 10000^(-i / (half - freq_shift)), half = block_out_channels[0] / 2.
class TimeEmbedding {
 public:
  TimeEmbedding(const TakeParameter& take, const std::string& name, const ModelConfig& config);
  /// @param t  [N], integer or not   @return [N, 4 * block_out_channels[0]] of the weights' type
  at::Tensor operator()(const at::Tensor& t) const;

 private:
  Linear linear_1_;
  Linear linear_2_;
  at::Tensor frequencies_;  // [half]
  bool cosines_first_;
  double timestep_scale_;
};

/// A learned vector for each class; the null class, -1, has the zero vector.
class ClassEmbedding {
 public:
  ClassEmbedding(const TakeParameter& take, const std::string& name, const ModelConfig& config);
  /// @param labels  [N], -1 <= label < num_classes, int64   @return [N, 4 * block_out_channels[0]]
  at::Tensor operator()(const at::Tensor& labels) const;

 private:
  at::Tensor weight_;
};

}  // namespace perrin::trainer
