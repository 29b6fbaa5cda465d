#pragma once

#include <cstdint>
#include <stdexcept>

#include "trainer/random/philox.hpp"

namespace perrin::trainer {

/// What a random number is for. The values are part of every run's bits: never renumber, only append.
enum class Purpose : std::uint8_t {
  timestep = 0,          ///< t, or sigma, of a training position
  noise = 1,             ///< eps of a training position
  flip = 2,              ///< horizontal flip of a training position
  dropout = 3,           ///< dropout masks of a training position, one call site a layer
  weights = 4,           ///< initial weights; the position is a hash of the parameter's name
  sampling_start = 5,    ///< x_T of a sample index
  sampling_noise = 6,    ///< z of a sample index at one sampler step
  evaluation_noise = 7,  ///< eps of a held-out image
  label_dropout = 8,     ///< whether a training position loses its label
  bound_noise = 9,       ///< eps of a held-out image at one timestep, its step, for the variational bound
  subset = 10,           ///< which images of an evaluation go into a random subset
};

/// One family of random numbers: everything of a key except the sample and the element.
struct Stream {
  std::uint64_t seed = 0;  ///< of the run
  Purpose purpose = Purpose::noise;
  std::uint32_t call_site = 0;  ///< which layer, 16 bits
  std::uint32_t step = 0;       ///< which step of a sampler, 24 bits
};

inline constexpr std::uint64_t kPositionLimit = std::uint64_t{1} << 48;
inline constexpr std::uint32_t kCallSiteLimit = std::uint32_t{1} << 16;
inline constexpr std::uint32_t kStepLimit = std::uint32_t{1} << 24;

/// The key layout of every random number in perrin; no rank, thread, memory layout or clock enters it.
///   key     seed
///   word 0  element / 4, the element index in logical NCHW order within one sample (the four output words are its four
///   elements) word 1  position, bits 0..31 word 2  position, bits 32..47 | call_site << 16 word 3  step, 24 bits |
///   purpose << 24
/// @param position  a training position, a sample index or a hash: whatever owns the number, below 2^48
/// @throws std::out_of_range when position, call site or step do not fit their bits
inline PhiloxCounter first_counter(const Stream& stream, std::uint64_t position) {
  if (position >= kPositionLimit || stream.call_site >= kCallSiteLimit || stream.step >= kStepLimit) {
    throw std::out_of_range("random key out of range: positions have 48 bits, call sites 16, steps 24");
  }
  return {0, static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32) | stream.call_site << 16,
          stream.step | static_cast<std::uint32_t>(stream.purpose) << 24};
}

constexpr PhiloxKey philox_key(const Stream& stream) {
  return {static_cast<std::uint32_t>(stream.seed), static_cast<std::uint32_t>(stream.seed >> 32)};
}

}  // namespace perrin::trainer
