#include "trainer/kernels/noise_image.hpp"

#include <array>
#include <span>

#include "comm/bfloat16.hpp"
#include "trainer/kernels/target_clones.hpp"
#include "trainer/random/fill.hpp"

namespace perrin::trainer {
namespace {

// x_0 of every pixel: a table, since the strided stores below keep the compiler from vectorising the divisions.
constexpr std::array<float, 256> kModelRange = [] {
  std::array<float, 256> range{};
  for (std::size_t pixel = 0; pixel < range.size(); ++pixel) range[pixel] = static_cast<float>(pixel) / 127.5F - 1.0F;
  return range;
}();

PERRIN_INLINE void store(float value, float* to) { *to = value; }
PERRIN_INLINE void store(float value, BFloat16* to) { *to = BFloat16{comm::bfloat16_from_float(value)}; }

/// eps and pixels come channel by channel, what is made of them pixel by pixel.
template <typename T>
PERRIN_INLINE void noise_pixels(const ImageToNoise& image, const float* eps, T* input, float* target) {
  const std::uint8_t* pixels = image.pixels;
  for (std::int64_t c = 0; c < image.channels; ++c) {
    std::int64_t to = c;
    for (std::int64_t y = 0; y < image.height; ++y, pixels += image.width, eps += image.width) {
      for (std::int64_t x = 0; x < image.width; ++x, to += image.channels) {
        const float x_0 = kModelRange[pixels[image.mirrored ? image.width - 1 - x : x]];
        store(image.c_in * (image.alpha * x_0 + image.sigma * eps[x]), input + to);
        target[to] = image.of_x0 * x_0 + image.of_eps * eps[x];
      }
    }
  }
}

PERRIN_CLONES void noise_all(const ImageToNoise& image, const float* eps, float* input, float* target) {
  noise_pixels(image, eps, input, target);
}

PERRIN_CLONES void noise_all(const ImageToNoise& image, const float* eps, BFloat16* input, float* target) {
  noise_pixels(image, eps, input, target);
}

}  // namespace

std::size_t noise_image_scratch(const ImageToNoise& image) {
  return static_cast<std::size_t>(image.channels * image.height * image.width);
}

template <typename T>
void noise_image(const ImageToNoise& image, const Stream& stream, std::uint64_t position, T* input, float* target,
                 float* scratch) {
  fill_normal(stream, position, std::span(scratch, noise_image_scratch(image)));
  noise_all(image, scratch, input, target);
}

template void noise_image(const ImageToNoise&, const Stream&, std::uint64_t, float*, float*, float*);
template void noise_image(const ImageToNoise&, const Stream&, std::uint64_t, BFloat16*, float*, float*);

}  // namespace perrin::trainer
