#pragma once

#include <immintrin.h>

#include <cstdint>

#include "trainer/kernels/bfloat16.hpp"

namespace perrin::trainer {

/// As PortableSums, in one register.
struct Avx512Sums {
  static constexpr int kCount = 8;
  __m512d sums = _mm512_setzero_pd();

  void add_squares(const float* from) {
    const __m512d a = _mm512_cvtps_pd(_mm256_loadu_ps(from));
    sums = _mm512_fmadd_pd(a, a, sums);
  }
  void store(double* to) const { _mm512_storeu_pd(to, sums); }
};

/// As PortableLanes, in one register.
struct Avx512Lanes {
  using Sums = Avx512Sums;
  static constexpr int kCount = 16;
  static constexpr int kVectorsAtOnce = 4;  // of the 32 registers 12 hold the sums of 4 vectors
  __m512 value;

  static Avx512Lanes all(float number) { return {_mm512_set1_ps(number)}; }
  static Avx512Lanes load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Avx512Lanes load(const BFloat16* from) {
    return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Avx512Lanes load(const float* from, int count) { return {_mm512_maskz_loadu_ps(first(count), from)}; }
  static Avx512Lanes load(const BFloat16* from, int count) {
    return widened(_mm256_maskz_loadu_epi16(first(count), from));
  }

  void store(float* to) const { _mm512_storeu_ps(to, value); }
  void store(BFloat16* to) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded()); }
  void store(float* to, int count) const { _mm512_mask_storeu_ps(to, first(count), value); }
  void store(BFloat16* to, int count) const { _mm256_mask_storeu_epi16(to, first(count), rounded()); }

  friend Avx512Lanes operator+(Avx512Lanes a, Avx512Lanes b) { return {_mm512_add_ps(a.value, b.value)}; }
  friend Avx512Lanes operator-(Avx512Lanes a, Avx512Lanes b) { return {_mm512_sub_ps(a.value, b.value)}; }
  friend Avx512Lanes operator*(Avx512Lanes a, Avx512Lanes b) { return {_mm512_mul_ps(a.value, b.value)}; }
  friend Avx512Lanes operator/(Avx512Lanes a, Avx512Lanes b) { return {_mm512_div_ps(a.value, b.value)}; }
  static Avx512Lanes fma(Avx512Lanes a, Avx512Lanes b, Avx512Lanes c) {
    return {_mm512_fmadd_ps(a.value, b.value, c.value)};
  }
  static Avx512Lanes sqrt(Avx512Lanes a) { return {_mm512_sqrt_ps(a.value)}; }
  static Avx512Lanes min(Avx512Lanes a, Avx512Lanes b) { return {_mm512_min_ps(a.value, b.value)}; }
  static Avx512Lanes max(Avx512Lanes a, Avx512Lanes b) { return {_mm512_max_ps(a.value, b.value)}; }
  static Avx512Lanes add_to_exponent(Avx512Lanes a, Avx512Lanes b) {
    return {_mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(a.value), _mm512_slli_epi32(_mm512_castps_si512(b.value), 23)))};
  }
  static Avx512Lanes where(std::uint16_t bits, Avx512Lanes a) { return {_mm512_maskz_mov_ps(bits, a.value)}; }

 private:
  static __mmask16 first(int count) { return static_cast<__mmask16>((1U << count) - 1); }
  static Avx512Lanes widened(__m256i halves) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
  }
  // By integers, not by VCVTNEPS2BF16, which flushes subnormal numbers to 0.
  __m256i rounded() const {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i nearest =
        _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(nearest, nan, high, _mm512_set1_epi32(0x40)));
  }
};

}  // namespace perrin::trainer
