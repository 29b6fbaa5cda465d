#include "trainer/random/fill.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "trainer/kernels/target_clones.hpp"

// This file is compiled with -ffp-contract=off: every fused multiply-add below is written, none is left to the
// compiler, and each is one rounding whether the machine has an instruction for it or libm computes it.

namespace perrin::trainer {
namespace {

// Blocks that are worked on together, word by word, so that the compiler can keep one word of 16 blocks in one
// register.
constexpr std::size_t kLanes = 64;
constexpr std::size_t kChunk = 4 * kLanes;

struct Lanes {
  alignas(64) std::uint32_t word[4][kLanes];
};

// The counters differ in word 0 only.
PERRIN_INLINE void philox_lanes(PhiloxCounter counter, PhiloxKey key, std::uint32_t first_block, Lanes& out) {
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const PhiloxCounter words =
        philox4x32_10({first_block + static_cast<std::uint32_t>(lane), counter[1], counter[2], counter[3]}, key);
    out.word[0][lane] = words[0];
    out.word[1][lane] = words[1];
    out.word[2][lane] = words[2];
    out.word[3][lane] = words[3];
  }
}

// ln(u) for u in [2^-32, 1]: u = 2^e m with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh(s), s = (m-1)/(m+1), |s| <
// 0.1716. The first dropped term of the series is 2 s^11 / 11 < 7e-10.
PERRIN_INLINE float natural_log(float u) {
  constexpr std::uint32_t kSqrtHalfBits = 0x3F3504F3;
  const std::uint32_t shifted = std::bit_cast<std::uint32_t>(u) - kSqrtHalfBits;
  const auto exponent = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const float m = std::bit_cast<float>((shifted & 0x007FFFFFu) + kSqrtHalfBits);
  const float s = (m - 1.0f) / (m + 1.0f);
  const float s2 = s * s;
  float series = 1.0f / 9.0f;
  series = std::fma(series, s2, 1.0f / 7.0f);
  series = std::fma(series, s2, 1.0f / 5.0f);
  series = std::fma(series, s2, 1.0f / 3.0f);
  series = std::fma(series, s2, 1.0f);
  return std::fma(exponent, std::numbers::ln2_v<float>, 2.0f * s * series);
}

// One Box-Muller pair from two words. The radius takes 31 bits of the first; the angle all of the second: its top two
// bits are the quadrant, the others the place in [-pi/4, pi/4) about that quadrant's axis, where the Taylor series err
// by less than 2e-9.
PERRIN_INLINE void normal_pair(std::uint32_t radius_bits, std::uint32_t angle_bits, float& first, float& second) {
  const float u = std::fma(static_cast<float>(static_cast<std::int32_t>(radius_bits >> 1)), 0x1p-31f, 0x1p-32f);
  const float radius = std::sqrt(-2.0f * natural_log(u));

  const std::int32_t within = static_cast<std::int32_t>(angle_bits << 2) >> 2;
  const float x = static_cast<float>(within) * (std::numbers::pi_v<float> / 2.0f * 0x1p-30f);
  const float x2 = x * x;
  float sine = 1.0f / 362880.0f;
  sine = std::fma(sine, x2, -1.0f / 5040.0f);
  sine = std::fma(sine, x2, 1.0f / 120.0f);
  sine = std::fma(sine, x2, -1.0f / 6.0f);
  sine = std::fma(sine * x2, x, x);
  float cosine = -1.0f / 3628800.0f;
  cosine = std::fma(cosine, x2, 1.0f / 40320.0f);
  cosine = std::fma(cosine, x2, -1.0f / 720.0f);
  cosine = std::fma(cosine, x2, 1.0f / 24.0f);
  cosine = std::fma(cosine, x2, -0.5f);
  cosine = std::fma(cosine, x2, 1.0f);

  // A quarter turn: (c, s) -> (-s, c). Odd quadrants swap; the signs are bits, so that no branch is left.
  const std::uint32_t odd = 0u - ((angle_bits >> 30) & 1u);
  const std::uint32_t sine_bits = std::bit_cast<std::uint32_t>(sine);
  const std::uint32_t cosine_bits = std::bit_cast<std::uint32_t>(cosine);
  const std::uint32_t first_sign = (angle_bits ^ (angle_bits << 1)) & 0x80000000u;
  const std::uint32_t second_sign = angle_bits & 0x80000000u;
  first = radius * std::bit_cast<float>(((cosine_bits & ~odd) | (sine_bits & odd)) ^ first_sign);
  second = radius * std::bit_cast<float>(((sine_bits & ~odd) | (cosine_bits & odd)) ^ second_sign);
}

PERRIN_INLINE void normal_lanes(const Lanes& bits, float* out) {
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    normal_pair(bits.word[0][lane], bits.word[1][lane], out[4 * lane], out[4 * lane + 1]);
    normal_pair(bits.word[2][lane], bits.word[3][lane], out[4 * lane + 2], out[4 * lane + 3]);
  }
}

PERRIN_CLONES void normal_chunks(PhiloxCounter counter, PhiloxKey key, float* out, std::size_t count) {
  Lanes bits;
  for (std::size_t done = 0; done < count; done += kChunk) {
    philox_lanes(counter, key, static_cast<std::uint32_t>(done / 4), bits);
    if (count - done >= kChunk) {
      normal_lanes(bits, out + done);
    } else {
      std::array<float, kChunk> last;
      normal_lanes(bits, last.data());
      std::copy_n(last.begin(), count - done, out + done);
    }
  }
}

PERRIN_CLONES void bit_chunks(PhiloxCounter counter, PhiloxKey key, std::uint32_t* out, std::size_t count) {
  Lanes bits;
  for (std::size_t done = 0; done < count; done += kChunk) {
    philox_lanes(counter, key, counter[0] + static_cast<std::uint32_t>(done / 4), bits);
    const std::size_t here = std::min(kChunk, count - done);
    for (std::size_t i = 0; i < here; ++i) {
      out[done + i] = bits.word[i % 4][i / 4];
    }
  }
}

constexpr std::uint64_t kElementLimit = std::uint64_t{1} << 32;

void check_count(std::uint64_t count) {
  if (count > kElementLimit) {
    throw std::out_of_range("a sample has more than 2^32 random elements");
  }
}

}  // namespace

void fill_bits(const Stream& stream, std::uint64_t position, std::span<std::uint32_t> bits) {
  fill_bits(stream, position, 0, bits);
}

void fill_bits(const Stream& stream, std::uint64_t position, std::uint64_t first, std::span<std::uint32_t> bits) {
  check_count(first + bits.size());
  PhiloxCounter counter = first_counter(stream, position);
  counter[0] = static_cast<std::uint32_t>(first / 4);
  bit_chunks(counter, philox_key(stream), bits.data(), bits.size());
}

void fill_normal(const Stream& stream, std::uint64_t position, std::span<float> normals) {
  check_count(normals.size());
  normal_chunks(first_counter(stream, position), philox_key(stream), normals.data(), normals.size());
}

__attribute__((optimize("no-tree-vectorize"))) void fill_normal_scalar(const Stream& stream, std::uint64_t position,
                                                                       std::span<float> normals) {
  check_count(normals.size());
  PhiloxCounter counter = first_counter(stream, position);
  for (std::size_t i = 0; i < normals.size(); i += 4) {
    counter[0] = static_cast<std::uint32_t>(i / 4);
    const PhiloxCounter words = philox4x32_10(counter, philox_key(stream));
    std::array<float, 4> four;
    normal_pair(words[0], words[1], four[0], four[1]);
    normal_pair(words[2], words[3], four[2], four[3]);
    std::copy_n(four.begin(), std::min<std::size_t>(4, normals.size() - i),
                normals.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

}  // namespace perrin::trainer
