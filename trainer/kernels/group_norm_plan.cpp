#include "trainer/kernels/group_norm_plan.hpp"

#include <algorithm>
#include <numeric>

namespace perrin::trainer {
namespace {

// Of x and du of a slice in backward, and as much of dy and dx as passes meanwhile: the least of today's second levels.
constexpr std::int64_t kSliceBytes = 512 * 1024;
constexpr std::int64_t kWholeBlock = 4 * kLanes;  // the largest of any instruction set

}  // namespace

ChannelBlock channel_block(const GroupNormShape& shape, std::int64_t channel, std::int64_t end, int vectors) noexcept {
  const bool first = channel < shape.first_channels;
  const std::int64_t left = (first ? std::min(end, shape.first_channels) : end) - channel;
  std::int64_t count = vectors * kLanes;
  while (count > left && count > kLanes) count /= 2;
  return {channel, std::min(count, left), first ? 0 : 1, first ? channel : channel - shape.first_channels,
          first ? shape.first_channels : shape.channels - shape.first_channels};
}

std::int64_t slice_channels(const GroupNormShape& shape) noexcept {
  const std::int64_t unit = std::lcm(shape.channels / shape.groups, kLanes);
  if (shape.channels % unit != 0) return shape.channels;
  const std::int64_t fitting = kSliceBytes / (4 * static_cast<std::int64_t>(sizeof(float)) * shape.pixels);
  const std::int64_t channels = std::max(fitting / unit, std::int64_t{1}) * unit;
  // Whole blocks where there is a choice.
  const std::int64_t blocks = std::lcm(unit, kWholeBlock);
  return std::min(channels > blocks ? channels / blocks * blocks : channels, shape.channels);
}

std::int64_t slices_of_sample(const GroupNormShape& shape) noexcept {
  const std::int64_t channels = slice_channels(shape);
  return (shape.channels + channels - 1) / channels;
}

Slice slice(const GroupNormShape& shape, std::int64_t index) noexcept {
  const std::int64_t slices = slices_of_sample(shape), channels = slice_channels(shape),
                     begin = index % slices * channels;
  return {index / slices, begin, std::min(begin + channels, shape.channels)};
}

std::int64_t padded_channels(const GroupNormShape& shape) noexcept {
  return (shape.channels + kLanes - 1) / kLanes * kLanes;
}

}  // namespace perrin::trainer
