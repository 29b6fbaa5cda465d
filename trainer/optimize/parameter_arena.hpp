#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "trainer/model/unet.hpp"
#include "trainer/optimize/parameter_layout.hpp"
#include "trainer/optimize/shard_plan.hpp"

namespace perrin::trainer {

/// A buffer that must survive a restart, as this rank holds it.
struct PersistentBuffer {
  std::string name;  ///< in checkpoints
  at::Tensor values;
  bool is_state;  ///< [plan().state_size()], what this rank owns; else [plan().size()]
};

/// All that the optimizer touches, as flat fp32 buffers of one layout. Weights and gradients are whole on every rank,
/// [plan().size()]; Adam's m and v and every EMA, the optimizer's state, hold what the plan gives to this rank,
/// [plan().state_size()]. What no parameter covers is 0 and stays so.
class ParameterArena {
 public:
  /// Allocates and initializes the weights (keyed by parameter name and seed); each EMA starts as a copy of them.
  /// @param compute type in which the network multiplies; other than float32: the arena keeps copies of the matrices
  ParameterArena(const std::vector<ParameterSpec>& specs, std::size_t emas, std::uint64_t seed, at::Device device,
                 const ShardOptions& shards = {}, at::ScalarType compute = at::kFloat);

  const ParameterLayout& layout() const { return layout_; }
  const ShardPlan& plan() const { return plan_; }
  at::Device device() const { return weights_.device(); }
  at::Tensor& weights() { return weights_; }
  at::Tensor& gradients() { return gradients_; }
  const at::Tensor& gradients() const { return gradients_; }
  at::Tensor& adam_m() { return adam_m_; }
  at::Tensor& adam_v() { return adam_v_; }
  /// One for each of ema.decays, then one for each of ema.power_sigmas.
  std::vector<at::Tensor>& emas() { return emas_; }
  const std::vector<at::Tensor>& emas() const { return emas_; }

  /// Weights as leaves that require grad, in the order of the layout: views of weights(), or where the compute type is
  /// another one, matrices as views of copy_of_weights().
  const std::vector<at::Tensor>& leaves() const { return leaves_; }
  /// The same weights as leaves of their own: for a second backward pass at the same time, whose gradients would
  /// otherwise fall into those of the first.
  std::vector<at::Tensor> more_leaves() const;
  /// The weights in the compute type, [plan().size()]; undefined where that is float32.
  at::Tensor& copy_of_weights() { return copy_of_weights_; }
  const at::Tensor& copy_of_weights() const { return copy_of_weights_; }
  /// To be called after weights() have changed by other means than AdamEma.
  void refresh_copy() {
    if (copy_of_weights_.defined()) copy_of_weights_.copy_(weights_);
  }
  /// For a model that trains: parameters by name, requiring grad.
  /// @param leaves  of this arena
  ParameterLookup trainable(const std::vector<at::Tensor>& leaves) const;
  /// For a model that only predicts, over weights() or a whole EMA: views of it, matrices in the compute type.
  ParameterLookup frozen(const at::Tensor& flat) const;
  /// Parameters by name, as views of weights() or a whole EMA.
  std::map<std::string, at::Tensor> named(const at::Tensor& flat) const;

  /// Fills a buffer of the optimizer's state with this rank's segments of a whole one.
  /// @param whole [plan().size()], on any device   @param state [plan().state_size()]
  void keep_own(const at::Tensor& whole, const at::Tensor& state) const;

  PersistentBuffer ema(std::size_t index) const;
  /// weights, adam_m, adam_v, ema-0, ema-1, ...
  std::vector<PersistentBuffer> persistent() const;

 private:
  ParameterLayout layout_;
  ShardPlan plan_;
  at::Tensor weights_, copy_of_weights_, gradients_, adam_m_, adam_v_;
  std::vector<at::Tensor> emas_;
  std::vector<at::Tensor> leaves_;

  /// Views of every parameter: in `copy` where that is defined and the parameter is a matrix, else in `flat`.
  std::vector<at::Tensor> views(const at::Tensor& flat, const at::Tensor& copy) const;
};

}  // namespace perrin::trainer
