#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/model/architecture.hpp"
#include "trainer/model/parameter_spec.hpp"

namespace perrin::trainer {

/// Gives the tensor of a parameter by its name: a leaf that requires grad, or a plain tensor (an EMA), of the logical
/// shape, any strides.
using ParameterLookup = std::function<at::Tensor(const std::string& name)>;

/// What a forward pass knows beside its inputs.
struct ForwardContext {
  std::span<const std::uint64_t>
      positions;           ///< [N] of the samples; dropout is keyed by them, so only training with dropout reads them
  std::uint64_t seed = 0;  ///< of the run
  bool training = false;   ///< dropout on
  at::Tensor labels{};     ///< [N] int64 on the device of the weights, -1: none; undefined: none of any
};

/// Every parameter of the network in forward order; the q, k, v weights of an attention are adjacent, and so are their
/// biases. The names and shapes are those of diffusers' UNet2DModel.
/// @throws std::invalid_argument, naming the key, when the configuration cannot be built for images of this shape
std::vector<ParameterSpec> unet_parameters(const ModelConfig& config, const data::ImageShape& shape);

/// The U-Net of the DDPM family: predicts eps, or what PredictionType says, from (x_t, t). Sources: Ho et al. 2020,
/// appendix B; Nichol & Dhariwal 2021; Dhariwal & Nichol 2021, section 3; parameter for parameter diffusers'
/// UNet2DModel. It owns no weights, only refers to tensors: the same class runs over training weights and over any EMA.
class UNet {
 public:
  /// @param activations  memory format of the activations; give the weights the same. Channels-last suits CUDA; on the
  ///        CPU it makes LibTorch's convolutions faster, but its GroupNorm slower by more (docs/performance.md)
  /// @throws std::invalid_argument as unet_parameters, and when a looked-up tensor has another shape
  UNet(const ModelConfig& config, const data::ImageShape& shape, const ParameterLookup& lookup,
       at::MemoryFormat activations = at::MemoryFormat::ChannelsLast);
  UNet(UNet&&) noexcept;
  UNet& operator=(UNet&&) noexcept;
  ~UNet();

  /// @param x_t  [N, C, H, W], device of the weights; the network computes in the type of its matrices
  /// @param t    [N], 0-based timestep, int64, or a continuous noise level of any floating type, same device
  /// @return [N, out_channels, H, W] in the type of x_t; out_channels 0 means C
  /// @throws std::invalid_argument when shapes disagree, positions are missing for dropout, or labels are given to a
  ///         network without classes or, on the CPU, are out of range
  at::Tensor operator()(const at::Tensor& x_t, const at::Tensor& t, const ForwardContext& context = {}) const;

 private:
  friend std::vector<ParameterSpec> unet_parameters(const ModelConfig& config, const data::ImageShape& shape);

  struct Network;
  std::unique_ptr<const Network> network_;
};

}  // namespace perrin::trainer
