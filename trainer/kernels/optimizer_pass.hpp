#pragma once

#include <cstdint>

#include "trainer/kernels/bfloat16.hpp"
#include "trainer/kernels/instruction_set.hpp"

/// The two walks over memory of one optimizer step: the gradients' sums of squares, then clip, Adam, every moving
/// average and the weights' copy in bfloat16. The bits depend neither on how a range is split over calls nor on the
/// instruction set.
namespace perrin::trainer {

/// The scalars of one update, in the form w -= rate * m / (sqrt(v) * v_scale + eps) that serves both places of epsilon.
struct AdamScalars {
  float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, rate, v_scale, eps;
};

/// An exponential moving average of the weights: values += weight (w - values).
struct MovingAverage {
  float* values;
  float weight;
};

/// Elements that belong together have the same index in all of them. No two overlap.
struct AdamArrays {
  float* weights;
  const float* gradients;
  float* m;
  float* v;
  const MovingAverage* averages;
  int average_count;
  BFloat16* copy;  ///< of the new weights, rounded to nearest; null: none is kept
};

/// Sums of squares in float64, of one block after the other.
/// @param values [blocks, block]   @param block  elements, a multiple of 8   @param sums  [blocks]
void sums_of_squares(const float* values, std::int64_t block, std::int64_t blocks, double* sums,
                     InstructionSet set = best_instruction_set());

/// Updates `count` elements, a multiple of 16, from `begin` on, another multiple.
void adam_update(const AdamArrays& arrays, const AdamScalars& scalars, std::int64_t begin, std::int64_t count,
                 InstructionSet set = best_instruction_set());

}  // namespace perrin::trainer
