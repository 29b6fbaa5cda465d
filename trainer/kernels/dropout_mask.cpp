#include "trainer/kernels/dropout_mask.hpp"

#include <algorithm>
#include <cmath>
#include <span>

#include "trainer/kernels/target_clones.hpp"
#include "trainer/random/fill.hpp"

namespace perrin::trainer {
namespace {

constexpr std::int64_t kChannels = 16;  // one bit each

// Random words come channel by channel, bits go pixel by pixel: each channel sets its bit in all pixels.
PERRIN_CLONES void set_bits(const std::uint32_t* words, std::uint32_t last_kept, std::uint32_t bit, std::int64_t pixels,
                            std::uint16_t* mask) {
  for (std::int64_t p = 0; p < pixels; ++p)
    mask[p] = static_cast<std::uint16_t>(mask[p] | (words[p] <= last_kept ? bit : 0U));
}

}  // namespace

std::size_t dropout_mask_size(std::int64_t pixels, std::int64_t channels) {
  return static_cast<std::size_t>((channels + kChannels - 1) / kChannels * pixels);
}

std::size_t dropout_mask_scratch(std::int64_t pixels) { return static_cast<std::size_t>(kChannels * pixels); }

void fill_dropout_mask(const Stream& stream, std::uint64_t position, double keep, std::int64_t pixels,
                       std::int64_t channels, std::uint16_t* mask, std::uint32_t* scratch) {
  std::fill_n(mask, dropout_mask_size(pixels, channels), std::uint16_t{0});
  // Kept are words below keep 2^32, as in keyed_dropout; the largest of them fits 32 bits also for keep = 1.
  const auto limit = static_cast<std::uint64_t>(std::ldexp(keep, 32));
  if (limit == 0) return;
  for (std::int64_t channel = 0; channel < channels; channel += kChannels, mask += pixels) {
    const std::int64_t here = std::min(kChannels, channels - channel);
    fill_bits(stream, position, static_cast<std::uint64_t>(channel * pixels),
              std::span(scratch, static_cast<std::size_t>(here * pixels)));
    for (std::int64_t c = 0; c < here; ++c)
      set_bits(scratch + c * pixels, static_cast<std::uint32_t>(limit - 1), 1U << c, pixels, mask);
  }
}

}  // namespace perrin::trainer
