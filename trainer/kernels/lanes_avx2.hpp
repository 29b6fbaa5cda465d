#pragma once

#include <immintrin.h>

#include <cstdint>

#include "trainer/kernels/bfloat16.hpp"

namespace perrin::trainer {

/// As PortableSums, in two registers.
struct Avx2Sums {
  static constexpr int kCount = 8;
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();

  void add_squares(const float* from) {
    const __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(from)), b = _mm256_cvtps_pd(_mm_loadu_ps(from + 4));
    low = _mm256_fmadd_pd(a, a, low);
    high = _mm256_fmadd_pd(b, b, high);
  }
  void store(double* to) const {
    _mm256_storeu_pd(to, low);
    _mm256_storeu_pd(to + 4, high);
  }
};

/// As PortableLanes, in two registers.
struct Avx2Lanes {
  using Sums = Avx2Sums;
  static constexpr int kCount = 16;
  static constexpr int kVectorsAtOnce = 2;  // of the 16 registers 12 hold the sums of 2 vectors
  __m256 low, high;

  static Avx2Lanes all(float number) { return {_mm256_set1_ps(number), _mm256_set1_ps(number)}; }
  static Avx2Lanes load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
  static Avx2Lanes load(const BFloat16* from) {
    const auto* halves = reinterpret_cast<const __m128i*>(from);
    return {widened(_mm_loadu_si128(halves)), widened(_mm_loadu_si128(halves + 1))};
  }
  template <typename T>
  static Avx2Lanes load(const T* from, int count) {
    T whole[kCount] = {};
    for (int i = 0; i < count; ++i) whole[i] = from[i];
    return load(whole);
  }

  void store(float* to) const {
    _mm256_storeu_ps(to, low);
    _mm256_storeu_ps(to + 8, high);
  }
  void store(BFloat16* to) const {
    // The pack works within each half of the register: quarters 0, 2, 1, 3.
    const __m256i packed = _mm256_packus_epi32(rounded(low), rounded(high));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xD8));
  }
  template <typename T>
  void store(T* to, int count) const {
    T whole[kCount];
    store(whole);
    for (int i = 0; i < count; ++i) to[i] = whole[i];
  }

  friend Avx2Lanes operator+(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  friend Avx2Lanes operator-(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  friend Avx2Lanes operator*(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  friend Avx2Lanes operator/(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
  }
  static Avx2Lanes fma(Avx2Lanes a, Avx2Lanes b, Avx2Lanes c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Avx2Lanes sqrt(Avx2Lanes a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
  static Avx2Lanes min(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
  }
  static Avx2Lanes max(Avx2Lanes a, Avx2Lanes b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static Avx2Lanes add_to_exponent(Avx2Lanes a, Avx2Lanes b) {
    return {add_to_exponent(a.low, b.low), add_to_exponent(a.high, b.high)};
  }
  static Avx2Lanes where(std::uint16_t bits, Avx2Lanes a) {
    const __m256i all_bits = _mm256_set1_epi32(bits);
    const __m256i low_bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return {where(all_bits, low_bits, a.low), where(all_bits, _mm256_slli_epi32(low_bits, 8), a.high)};
  }

 private:
  static __m256 widened(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
  static __m256i rounded(__m256 value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i nearest =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(nearest, quiet, nan);
  }
  static __m256 add_to_exponent(__m256 a, __m256 b) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_castps_si256(b), 23)));
  }
  static __m256 where(__m256i bits, __m256i of_lane, __m256 a) {
    const __m256i chosen = _mm256_cmpeq_epi32(_mm256_and_si256(bits, of_lane), of_lane);
    return _mm256_and_ps(_mm256_castsi256_ps(chosen), a);
  }
};

}  // namespace perrin::trainer
