#include "data/source/resample.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <vector>

namespace perrin::data {
namespace {

constexpr int kFractionBits = 32 - 8 - 2;  // of a coefficient: 8 bits of pixel and 2 of overshoot fit above them

double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

struct Kernel {
  double (*function)(double);
  double support;
};

Kernel kernel_of(Filter filter) {
  switch (filter) {
    case Filter::box:
      return {box, 0.5};
    case Filter::bicubic:
      return {bicubic, 2.0};
    case Filter::lanczos:
      return {lanczos, 3.0};
  }
  return {box, 0.5};
}

/// How one output element is made: from inputs [first, first + weights.size()).
struct Tap {
  std::size_t first;
  std::vector<std::int32_t> weights;
};

std::vector<Tap> taps_of(std::uint32_t in, std::uint32_t out, const Kernel& kernel) {
  const double scale = static_cast<double>(in) / out;
  const double filter_scale = std::max(scale, 1.0);
  const double support = kernel.support * filter_scale;
  const double inverse = 1.0 / filter_scale;
  std::vector<Tap> taps;
  taps.reserve(out);
  for (std::uint32_t i = 0; i < out; ++i) {
    const double center = (i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(center - support + 0.5));
    const int last = std::min(static_cast<int>(in), static_cast<int>(center + support + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (int x = first; x < last; ++x) {
      weights.push_back(kernel.function((x - center + 0.5) * inverse));
      sum += weights.back();
    }
    Tap tap{static_cast<std::size_t>(first), {}};
    for (double weight : weights) {
      if (sum != 0.0) weight /= sum;
      tap.weights.push_back(static_cast<std::int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kFractionBits)));
    }
    taps.push_back(std::move(tap));
  }
  return taps;
}

std::uint8_t rounded(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kFractionBits, 0, 255)); }

constexpr std::int32_t kHalf = 1 << (kFractionBits - 1);

Picture resample_columns(const Picture& in, std::uint32_t width, const Kernel& kernel) {
  const std::vector<Tap> taps = taps_of(in.shape.width, width, kernel);
  Picture out{{in.shape.channels, in.shape.height, width}, in.has_alpha, {}};
  out.pixels.resize(out.shape.bytes());
  const std::size_t rows = static_cast<std::size_t>(in.shape.channels) * in.shape.height;
  for (std::size_t row = 0; row < rows; ++row) {
    const std::uint8_t* from = in.pixels.data() + row * in.shape.width;
    std::uint8_t* to = out.pixels.data() + row * width;
    for (const Tap& tap : taps) {
      std::int32_t sum = kHalf;
      for (std::size_t k = 0; k < tap.weights.size(); ++k) sum += from[tap.first + k] * tap.weights[k];
      *to++ = rounded(sum);
    }
  }
  return out;
}

Picture resample_rows(const Picture& in, std::uint32_t height, const Kernel& kernel) {
  const std::vector<Tap> taps = taps_of(in.shape.height, height, kernel);
  Picture out{{in.shape.channels, height, in.shape.width}, in.has_alpha, {}};
  out.pixels.resize(out.shape.bytes());
  const std::size_t width = in.shape.width;
  std::vector<std::int32_t> sums(width);
  for (std::size_t c = 0; c < in.shape.channels; ++c) {
    for (std::size_t y = 0; y < height; ++y) {
      std::fill(sums.begin(), sums.end(), kHalf);
      for (std::size_t k = 0; k < taps[y].weights.size(); ++k) {
        const std::uint8_t* from = in.pixels.data() + (c * in.shape.height + taps[y].first + k) * width;
        const std::int32_t weight = taps[y].weights[k];
        for (std::size_t x = 0; x < width; ++x) sums[x] += from[x] * weight;
      }
      std::transform(sums.begin(), sums.end(),
                     out.pixels.begin() + static_cast<std::ptrdiff_t>((c * height + y) * width), rounded);
    }
  }
  return out;
}

}  // namespace

Picture resample(const Picture& picture, std::uint32_t height, std::uint32_t width, Filter filter) {
  const Kernel kernel = kernel_of(filter);
  const Picture columns = picture.shape.width == width ? picture : resample_columns(picture, width, kernel);
  return columns.shape.height == height ? columns : resample_rows(columns, height, kernel);
}

}  // namespace perrin::data
