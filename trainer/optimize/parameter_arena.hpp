#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "trainer/model/unet.hpp"
#include "trainer/optimize/parameter_layout.hpp"

namespace perrin::trainer {

/// All state the optimizer touches, as flat fp32 buffers of one layout: weights, gradients, Adam's m and v, every EMA.
class ParameterArena {
 public:
  /// Allocates and initializes the weights (keyed by parameter name and seed); each EMA starts as a copy of them.
  ParameterArena(const std::vector<ParameterSpec>& specs, std::size_t emas, std::uint64_t seed, at::Device device);

  const ParameterLayout& layout() const { return layout_; }
  at::Tensor& weights() { return weights_; }
  at::Tensor& gradients() { return gradients_; }
  at::Tensor& adam_m() { return adam_m_; }
  at::Tensor& adam_v() { return adam_v_; }
  /// One for each of ema.decays, then one for each of ema.power_sigmas.
  std::vector<at::Tensor>& emas() { return emas_; }
  const std::vector<at::Tensor>& emas() const { return emas_; }

  /// Weights as leaves that require grad, in the order of the layout; they share memory with weights().
  const std::vector<at::Tensor>& leaves() const { return leaves_; }
  /// For a model that trains: parameters by name, requiring grad.
  ParameterLookup trainable() const;
  /// For a model that only predicts, over weights() or an EMA: plain views, no gradients.
  ParameterLookup frozen(const at::Tensor& flat) const;

  /// Every buffer that must survive a restart, with its name in checkpoints: weights, adam_m, adam_v, ema-0, ema-1, ...
  std::vector<std::pair<std::string, at::Tensor>> persistent() const;

 private:
  ParameterLayout layout_;
  at::Tensor weights_, gradients_, adam_m_, adam_v_;
  std::vector<at::Tensor> emas_;
  std::vector<at::Tensor> leaves_;
};

}  // namespace perrin::trainer
