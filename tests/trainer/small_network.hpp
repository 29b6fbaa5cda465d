#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "trainer/optimize/parameter_arena.hpp"
#include "trainer/optimize/slice_plan.hpp"

/// A small convolutional network and its batch, the same on every rank, for tests of what ranks do together.
namespace perrin::trainer::test {

inline constexpr std::int64_t kBatch = 12;
/// Cap that makes as many buckets as there are blocks for every rank: 22 on one rank, 6 on four.
inline constexpr std::int64_t kTinyBucket = 64;

inline std::vector<ParameterSpec> parameters() {
  const Initializer random{.kind = Initializer::Kind::xavier_uniform, .scale = 1.0};
  return {{.name = "conv.weight", .shape = {6, 2, 3, 3}, .initializer = random}, {.name = "conv.bias", .shape = {6}},
          {.name = "wide.weight", .shape = {8000, 6}, .initializer = random},    {.name = "wide.bias", .shape = {8000}},
          {.name = "narrow.weight", .shape = {4, 8000}, .initializer = random},  {.name = "narrow.bias", .shape = {4}}};
}

/// Mean over the global batch of the network's squared output, as far as these images have a part in it.
/// @param p  parameters in the order of the layout
inline at::Tensor loss_of(const std::vector<at::Tensor>& p, const Slice& slice) {
  const at::Tensor images =
      at::arange(kBatch * 2 * 5 * 5, at::kFloat).view({kBatch, 2, 5, 5}).sin().narrow(0, slice.offset, slice.count);
  const at::Tensor features = at::conv2d(images, p[0], p[1]).tanh().mean({2, 3});
  return at::linear(at::linear(features, p[2], p[3]).tanh(), p[4], p[5]).square().sum() / kBatch;
}

inline at::Tensor loss_of(const ParameterArena& arena, const Slice& slice) { return loss_of(arena.leaves(), slice); }

/// The gradient of these images, in one process without hooks or buckets. [layout().size()]
inline at::Tensor reference_gradient(const Slice& slice = {0, kBatch}) {
  const ParameterArena arena(parameters(), 0, /*seed=*/3, at::kCPU);
  loss_of(arena, slice).backward();
  at::Tensor flat = at::zeros({arena.layout().size()});
  for (std::size_t i = 0; i < arena.leaves().size(); ++i)
    arena.layout().view(flat, arena.layout().ranges()[i]).copy_(arena.leaves()[i].grad());
  return flat;
}

}  // namespace perrin::trainer::test
