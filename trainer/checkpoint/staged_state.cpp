#include "trainer/checkpoint/staged_state.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

namespace perrin::trainer {
namespace {

/// By the bits, which compiles to a few vector instructions and stays on this thread.
bool all_finite(std::span<const float> values) {
  constexpr std::uint32_t kExponent = 0x7F800000;
  std::uint32_t non_finite = 0;
  for (const float value : values)
    non_finite |= static_cast<std::uint32_t>((std::bit_cast<std::uint32_t>(value) & kExponent) == kExponent);
  return non_finite == 0;
}

}  // namespace

StagedState::StagedState(const ParameterArena& arena, const StatePart& part) : layout_(arena.layout()), part_(part) {
  const bool pinned = arena.device().is_cuda();
  for (const PersistentBuffer& buffer : arena.persistent())
    // Filled, so that no page is missing when the first copy is waited for.
    copies_[buffer.name] = at::zeros({part.size()}, at::TensorOptions(at::kFloat).pinned_memory(pinned)).fill_(1);
}

void StagedState::stage(const PersistentBuffer& buffer, const ShardGather& shards) {
  shards.collect(buffer, part_.begin, part_.end, copies_.at(buffer.name));
}

std::map<std::string, at::Tensor> StagedState::tensors(const std::string& buffer) const {
  std::map<std::string, at::Tensor> views;
  for (std::size_t r = part_.first_range; r < part_.last_range; ++r) {
    ParameterLayout::Range place = layout_.ranges()[r];
    place.offset -= part_.begin;
    views.emplace(place.name, layout_.view(copies_.at(buffer), place));
  }
  return views;
}

std::string StagedState::first_non_finite(const std::string& buffer) const {
  const float* values = copies_.at(buffer).const_data_ptr<float>();
  for (std::size_t r = part_.first_range; r < part_.last_range; ++r) {
    const ParameterLayout::Range& range = layout_.ranges()[r];
    if (!all_finite({values + (range.offset - part_.begin), static_cast<std::size_t>(range.numel)})) return range.name;
  }
  return "";
}

}  // namespace perrin::trainer
