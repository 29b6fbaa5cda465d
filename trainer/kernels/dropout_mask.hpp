#pragma once

#include <cstddef>
#include <cstdint>

#include "trainer/random/stream.hpp"

namespace perrin::trainer {

/// 16-bit words of the dropout mask of one sample.
std::size_t dropout_mask_size(std::int64_t pixels, std::int64_t channels);

/// 32-bit words of scratch that fill_dropout_mask needs.
std::size_t dropout_mask_scratch(std::int64_t pixels);

/// One bit an element: bit i of mask[v * pixels + p] is set where channel 16 v + i of pixel p is kept, which is where
/// keyed_dropout has a factor that is not 0.
/// @param keep  in (0, 1]
void fill_dropout_mask(const Stream& stream, std::uint64_t position, double keep, std::int64_t pixels,
                       std::int64_t channels, std::uint16_t* mask, std::uint32_t* scratch);

}  // namespace perrin::trainer
