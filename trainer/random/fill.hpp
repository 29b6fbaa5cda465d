#pragma once

#include <cstdint>
#include <span>

#include "trainer/random/stream.hpp"

namespace perrin::trainer {

/// Uniform 32-bit words of one sample: bits[i] belongs to element i.
void fill_bits(const Stream& stream, std::uint64_t position, std::span<std::uint32_t> bits);

/// The same for elements from `first` on, a multiple of 4.
void fill_bits(const Stream& stream, std::uint64_t position, std::uint64_t first, std::span<std::uint32_t> bits);

/// Standard normals of one sample, N(0, 1), |z| < 6.67: normals[i] belongs to element i.
/// Box-Muller on pairs of words, with logarithm, sine and cosine by series of fused multiply-adds, so that AVX-512,
/// AVX2 and scalar code give the same bits (no libm, whose results differ between machines).
void fill_normal(const Stream& stream, std::uint64_t position, std::span<float> normals);

/// The same, by code that is never vectorised and knows no instruction set; tests compare it with fill_normal bit by
/// bit.
void fill_normal_scalar(const Stream& stream, std::uint64_t position, std::span<float> normals);

}  // namespace perrin::trainer
