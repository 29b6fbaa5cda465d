#pragma once

#include <cstdint>

#include "trainer/kernels/optimizer_pass.hpp"

/// Included by one file for each instruction set, with its lanes.
namespace perrin::trainer::optimizer_pass_code {

/// Elements that are asked for before they are needed: 512 bytes of each array. With none the update was 6 to 9 %
/// slower on pages of 4 KiB, with 2 KiB as slow as with none.
inline constexpr std::int64_t kAhead = 128;

/// Blocks together: each is one chain of additions, and one stream of memory.
template <typename Lanes, int kTogether>
void sums_of_neighbours(const float* values, std::int64_t block, double* sums) {
  using Sums = typename Lanes::Sums;
  Sums totals[kTogether];
  for (std::int64_t i = 0; i < block; i += Sums::kCount)
    for (int k = 0; k < kTogether; ++k) totals[k].add_squares(values + k * block + i);
  for (int k = 0; k < kTogether; ++k) {
    double s[Sums::kCount];
    totals[k].store(s);
    sums[k] = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
  }
}

template <typename Lanes>
void sums_of_squares(const float* values, std::int64_t block, std::int64_t blocks, double* sums) {
  constexpr int kTogether = 4;
  std::int64_t done = 0;
  for (; done + kTogether <= blocks; done += kTogether)
    sums_of_neighbours<Lanes, kTogether>(values + done * block, block, sums + done);
  for (; done < blocks; ++done) sums_of_neighbours<Lanes, 1>(values + done * block, block, sums + done);
}

template <typename Lanes>
void adam_update(const AdamArrays& arrays, const AdamScalars& scalars, std::int64_t begin, std::int64_t count) {
  const Lanes gradient_scale = Lanes::all(scalars.gradient_scale), beta1 = Lanes::all(scalars.beta1),
              one_minus_beta1 = Lanes::all(scalars.one_minus_beta1), beta2 = Lanes::all(scalars.beta2),
              one_minus_beta2 = Lanes::all(scalars.one_minus_beta2), rate = Lanes::all(scalars.rate),
              v_scale = Lanes::all(scalars.v_scale), eps = Lanes::all(scalars.eps);
  const AdamArrays a = arrays;  // its pointers stay in registers: nothing stored can change them
  for (std::int64_t i = begin; i < begin + count; i += Lanes::kCount) {
    // Sixteen floats are a cache line. Past the end nothing happens: a prefetch does not fault.
    __builtin_prefetch(a.gradients + i + kAhead);
    __builtin_prefetch(a.m + i + kAhead);
    __builtin_prefetch(a.v + i + kAhead);
    __builtin_prefetch(a.weights + i + kAhead);
    const Lanes gradient = Lanes::load(a.gradients + i) * gradient_scale;
    const Lanes m = beta1 * Lanes::load(a.m + i) + one_minus_beta1 * gradient;
    const Lanes v = beta2 * Lanes::load(a.v + i) + one_minus_beta2 * (gradient * gradient);
    const Lanes w = Lanes::load(a.weights + i) - rate * m / (Lanes::sqrt(v) * v_scale + eps);
    m.store(a.m + i);
    v.store(a.v + i);
    w.store(a.weights + i);
    for (int k = 0; k < a.average_count; ++k) {
      float* const values = a.averages[k].values + i;
      __builtin_prefetch(values + kAhead);
      const Lanes average = Lanes::load(values);
      (average + Lanes::all(a.averages[k].weight) * (w - average)).store(values);
    }
    if (a.copy != nullptr) w.store(a.copy + i);
  }
}

}  // namespace perrin::trainer::optimizer_pass_code
