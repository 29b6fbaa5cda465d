#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "comm/bfloat16.hpp"
#include "trainer/kernels/bfloat16.hpp"

namespace perrin::trainer {

/// Eight float64 in which squares add up; as PortableLanes, one type for each instruction set with the same bits.
struct PortableSums {
  static constexpr int kCount = 8;
  double value[kCount] = {};

  /// Adds the squares of eight float32, each of them exact in float64.
  void add_squares(const float* from) {
    for (int i = 0; i < kCount; ++i) value[i] += static_cast<double>(from[i]) * from[i];
  }
  void store(double* to) const {
    for (int i = 0; i < kCount; ++i) to[i] = value[i];
  }
};

/// Sixteen float32 worked on together. PortableLanes, Avx2Lanes and Avx512Lanes have the same members, and each member
/// gives the same bits in all three (NaN apart, which stays NaN): kernels are templates over them.
///
/// The files of different instruction sets end up in one program, so what they instantiate must carry the type of the
/// lanes in its name: a std::min compiled for AVX-512 may be the one that the linker keeps for all.
struct PortableLanes {
  using Sums = PortableSums;
  static constexpr int kCount = 16;
  static constexpr int kVectorsAtOnce = 1;  ///< that a kernel works on together, as the registers allow
  alignas(64) float value[kCount];

  template <typename Make>
  static PortableLanes each(const Make& make) {
    PortableLanes result;
    for (int i = 0; i < kCount; ++i) result.value[i] = make(i);
    return result;
  }

  static PortableLanes all(float number) {
    return each([&](int) { return number; });
  }
  static PortableLanes load(const float* from) {
    return each([&](int i) { return from[i]; });
  }
  static PortableLanes load(const BFloat16* from) {
    return each([&](int i) { return comm::float_from_bfloat16(static_cast<std::uint16_t>(from[i])); });
  }
  /// The first `count` lanes; the others are 0.
  template <typename T>
  static PortableLanes load(const T* from, int count) {
    T whole[kCount] = {};
    for (int i = 0; i < count; ++i) whole[i] = from[i];
    return load(whole);
  }

  void store(float* to) const {
    for (int i = 0; i < kCount; ++i) to[i] = value[i];
  }
  /// Rounds to nearest, ties to even.
  void store(BFloat16* to) const {
    for (int i = 0; i < kCount; ++i) to[i] = BFloat16{comm::bfloat16_from_float(value[i])};
  }
  template <typename T>
  void store(T* to, int count) const {
    T whole[kCount];
    store(whole);
    for (int i = 0; i < count; ++i) to[i] = whole[i];
  }

  friend PortableLanes operator+(const PortableLanes& a, const PortableLanes& b) {
    return each([&](int i) { return a.value[i] + b.value[i]; });
  }
  friend PortableLanes operator-(const PortableLanes& a, const PortableLanes& b) {
    return each([&](int i) { return a.value[i] - b.value[i]; });
  }
  friend PortableLanes operator*(const PortableLanes& a, const PortableLanes& b) {
    return each([&](int i) { return a.value[i] * b.value[i]; });
  }
  friend PortableLanes operator/(const PortableLanes& a, const PortableLanes& b) {
    return each([&](int i) { return a.value[i] / b.value[i]; });
  }
  /// a b + c, rounded once.
  static PortableLanes fma(const PortableLanes& a, const PortableLanes& b, const PortableLanes& c) {
    return each([&](int i) { return __builtin_fmaf(a.value[i], b.value[i], c.value[i]); });
  }
  static PortableLanes sqrt(const PortableLanes& a) {
    return each([&](int i) { return __builtin_sqrtf(a.value[i]); });
  }
  /// b where either is NaN.
  static PortableLanes min(const PortableLanes& a, const PortableLanes& b) {
    return each([&](int i) { return a.value[i] < b.value[i] ? a.value[i] : b.value[i]; });
  }
  static PortableLanes max(const PortableLanes& a, const PortableLanes& b) {
    return each([&](int i) { return a.value[i] > b.value[i] ? a.value[i] : b.value[i]; });
  }
  /// The bits of a, as integers, plus those of b shifted left by 23: a 2^n where n stands in the low bits of b.
  static PortableLanes add_to_exponent(const PortableLanes& a, const PortableLanes& b) {
    return each([&](int i) {
      return std::bit_cast<float>(std::bit_cast<std::uint32_t>(a.value[i]) +
                                  (std::bit_cast<std::uint32_t>(b.value[i]) << 23));
    });
  }
  /// a where the lane's bit is set, else 0.
  static PortableLanes where(std::uint16_t bits, const PortableLanes& a) {
    return each([&](int i) { return (bits >> i & 1) != 0 ? a.value[i] : 0.0F; });
  }
};

}  // namespace perrin::trainer
