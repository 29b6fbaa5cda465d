#pragma once

#include <cstddef>
#include <cstdint>

#include "trainer/kernels/bfloat16.hpp"
#include "trainer/random/stream.hpp"

namespace perrin::trainer {

/// One training image, and what is to be made of it and of its noise eps:
///
///   input  = c_in (alpha x_0 + sigma eps),   target = of_x0 x_0 + of_eps eps,   x_0 = pixel / 127.5 - 1
///
/// Sources: Ho et al. 2020, eq. 4 and section 3.3; Karras et al. 2022, table 1 (c_in).
struct ImageToNoise {
  std::int64_t channels, height, width;
  const std::uint8_t* pixels;  ///< [channels, height, width]
  bool mirrored;               ///< from right to left
  float alpha, sigma, c_in;
  float of_x0, of_eps;
};

/// Elements of scratch that noise_image needs.
std::size_t noise_image_scratch(const ImageToNoise& image);

/// In one pass over the pixels; eps is that of fill_normal. Every product and sum is rounded to float32 in the order
/// of the formula, so the bits are those of LibTorch's operators, whatever the instruction set.
/// @param input    [height, width, channels], float32 or bfloat16
/// @param target   [height, width, channels]
/// @param scratch  that no other thread uses meanwhile
template <typename T>
void noise_image(const ImageToNoise& image, const Stream& stream, std::uint64_t position, T* input, float* target,
                 float* scratch);

}  // namespace perrin::trainer
