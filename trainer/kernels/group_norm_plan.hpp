#pragma once

#include <cstdint>

#include "trainer/kernels/group_norm.hpp"

/// How a sample is cut; the same for every instruction set, and compiled once, for none in particular.
namespace perrin::trainer {

inline constexpr std::int64_t kLanes = 16;
inline constexpr std::int64_t kScratchLine = 16;  // of float32 in a cache line, at whose begin the numbers start
inline constexpr int kChannelArrays = 11;         // of float32 in the scratch memory, one element a channel

/// Neighbouring channels of one of the two tensors: 1, 2 or 4 vectors, or part of one.
struct ChannelBlock {
  std::int64_t channel, count;                   ///< among all channels
  int source;                                    ///< which tensor
  std::int64_t source_channel, source_channels;  ///< its first channel there, and how many that tensor has
};

/// The largest block from `channel` on that ends by `end`, of at most `vectors` vectors (1, 2 or 4).
ChannelBlock channel_block(const GroupNormShape& shape, std::int64_t channel, std::int64_t end, int vectors) noexcept;

/// Channels of a slice: whole groups and whole vectors, and no more than stay in the second-level cache; all channels
/// where no such part exists.
std::int64_t slice_channels(const GroupNormShape& shape) noexcept;

/// Channels [begin, end) of all pixels of a sample.
struct Slice {
  std::int64_t sample, begin, end;
};

std::int64_t slices_of_sample(const GroupNormShape& shape) noexcept;

/// Slices are counted through the samples.
Slice slice(const GroupNormShape& shape, std::int64_t index) noexcept;

/// Channels from one array of the scratch memory to the next.
std::int64_t padded_channels(const GroupNormShape& shape) noexcept;

}  // namespace perrin::trainer
