#include "trainer/optimize/parameter_arena.hpp"

#include <ATen/ATen.h>

#include "trainer/model/initialize.hpp"
#include "trainer/precision.hpp"

namespace perrin::trainer {
namespace {

/// Index of parameters by name over one flat buffer; `views` in the order of the layout.
ParameterLookup lookup_by_name(const ParameterLayout& layout, const std::vector<at::Tensor>& views) {
  std::map<std::string, at::Tensor> by_name;
  for (std::size_t i = 0; i < views.size(); ++i) by_name.emplace(layout.ranges()[i].name, views[i]);
  return [by_name = std::move(by_name)](const std::string& name) { return by_name.at(name); };
}

}  // namespace

ParameterArena::ParameterArena(const std::vector<ParameterSpec>& specs, std::size_t emas, std::uint64_t seed,
                               at::Device device, const ShardOptions& shards, at::ScalarType compute)
    : layout_(specs, at::MemoryFormat::ChannelsLast), plan_(layout_, shards) {
  const at::Tensor initial = at::zeros({plan_.size()}, at::kFloat);
  for (std::size_t i = 0; i < specs.size(); ++i) initialize(specs[i], layout_.view(initial, layout_.ranges()[i]), seed);
  weights_ = initial.to(device);
  gradients_ = at::zeros_like(weights_);
  adam_m_ = at::zeros({plan_.state_size()}, weights_.options());
  adam_v_ = at::zeros_like(adam_m_);
  for (std::size_t i = 0; i < emas; ++i) {
    emas_.push_back(at::empty_like(adam_m_));
    keep_own(weights_, emas_.back());
  }
  if (compute != at::kFloat) copy_of_weights_ = weights_.to(compute);
  leaves_ = more_leaves();
}

std::vector<at::Tensor> ParameterArena::more_leaves() const {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& view : views(weights_, copy_of_weights_))
    leaves.push_back(view.detach().set_requires_grad(true));
  return leaves;
}

std::vector<at::Tensor> ParameterArena::views(const at::Tensor& flat, const at::Tensor& copy) const {
  std::vector<at::Tensor> views;
  for (const auto& range : layout_.ranges())
    views.push_back(layout_.view(copy.defined() && is_matrix(range.shape.size()) ? copy : flat, range));
  return views;
}

ParameterLookup ParameterArena::trainable(const std::vector<at::Tensor>& leaves) const {
  return lookup_by_name(layout_, leaves);
}

ParameterLookup ParameterArena::frozen(const at::Tensor& flat) const {
  return lookup_by_name(
      layout_, views(flat, copy_of_weights_.defined() ? flat.to(copy_of_weights_.scalar_type()) : at::Tensor()));
}

std::map<std::string, at::Tensor> ParameterArena::named(const at::Tensor& flat) const {
  std::map<std::string, at::Tensor> by_name;
  for (const auto& range : layout_.ranges()) by_name.emplace(range.name, layout_.view(flat, range));
  return by_name;
}

void ParameterArena::keep_own(const at::Tensor& whole, const at::Tensor& state) const {
  for (const Segment& segment : plan_.own())
    state.narrow(0, segment.state_offset, segment.count).copy_(whole.narrow(0, segment.arena_offset, segment.count));
}

PersistentBuffer ParameterArena::ema(std::size_t index) const {
  return {"ema-" + std::to_string(index), emas_.at(index), true};
}

std::vector<PersistentBuffer> ParameterArena::persistent() const {
  std::vector<PersistentBuffer> buffers = {
      {"weights", weights_, false}, {"adam_m", adam_m_, true}, {"adam_v", adam_v_, true}};
  for (std::size_t i = 0; i < emas_.size(); ++i) buffers.push_back(ema(i));
  return buffers;
}

}  // namespace perrin::trainer
