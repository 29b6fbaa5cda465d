#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "comm/bfloat16.hpp"
#include "trainer/kernels/dropout_mask.hpp"
#include "trainer/kernels/group_norm.hpp"
#include "trainer/random/fill.hpp"

namespace perrin::trainer {
namespace {

constexpr InstructionSet kSets[] = {InstructionSet::avx512, InstructionSet::avx2, InstructionSet::portable};

template <typename T>
T element(float value) {
  if constexpr (std::is_same_v<T, float>)
    return value;
  else
    return BFloat16{comm::bfloat16_from_float(value)};
}

template <typename T>
class Random {
 public:
  std::vector<T> operator()(std::int64_t count, float deviation) {
    std::vector<T> values(static_cast<std::size_t>(count));
    for (T& value : values) value = element<T>(deviation * normal_(engine_));
    return values;
  }

 private:
  std::mt19937 engine_{7};
  std::normal_distribution<float> normal_;
};

/// All outputs of forward and backward as bytes.
template <typename T>
std::vector<std::uint8_t> outputs(const GroupNormShape& shape, bool modulated, bool dropout, InstructionSet set) {
  constexpr std::int64_t kSamples = 2;
  Random<T> activations;
  Random<float> numbers;
  const std::int64_t second = shape.channels - shape.first_channels, rows = kSamples * shape.pixels;
  // A deviation of 30 takes the exponential to both of its ends.
  const std::vector<float> gamma = numbers(shape.channels, 30), beta = numbers(shape.channels, 1),
                           modulation = numbers(3 * kSamples * shape.channels, 0.5F);
  const std::vector<T> x1 = activations(rows * shape.first_channels, 2), x2 = activations(rows * second, 2),
                       dy = activations(rows * shape.channels, 1);
  const std::size_t mask_size = dropout_mask_size(shape.pixels, shape.channels);
  std::vector<std::uint16_t> mask(kSamples * mask_size);
  std::vector<std::uint32_t> words(dropout_mask_scratch(shape.pixels));
  for (std::uint64_t n = 0; n < kSamples; ++n)
    fill_dropout_mask({.seed = 1}, n, 0.7, shape.pixels, shape.channels, mask.data() + n * mask_size, words.data());

  GroupNormParameters parameters{.gamma = gamma.data(), .beta = beta.data()};
  if (modulated) {
    parameters.add = modulation.data();
    parameters.scale = parameters.add + kSamples * shape.channels;
    parameters.shift = parameters.scale + kSamples * shape.channels;
  }
  if (dropout) {
    parameters.kept = mask.data();
    parameters.keep_factor = 1 / 0.7F;
  }
  std::vector<T> y(dy.size()), dx1(x1.size()), dx2(x2.size());
  std::vector<float> statistics(static_cast<std::size_t>(2 * kSamples * shape.groups)),
      sums(static_cast<std::size_t>(3 * kSamples * shape.channels)), scratch(group_norm_scratch(shape));
  float* rstd = statistics.data() + kSamples * shape.groups;
  const GroupNormRange range{0, kSamples, scratch.data()};
  group_norm_forward(shape, parameters,
                     GroupNormForward<T>{{x1.data(), x2.data()}, y.data(), statistics.data(), rstd, 1e-5F}, range, set);
  float* const sum = sums.data();
  group_norm_backward(
      shape, parameters,
      GroupNormBackward<T>{.dy = dy.data(),
                           .x = {x1.data(), x2.data()},
                           .mean = statistics.data(),
                           .rstd = rstd,
                           .residual = {modulated ? x1.data() : nullptr, modulated ? x2.data() : nullptr},
                           .dx = {dx1.data(), dx2.data()},
                           .du_sum = sum,
                           .du_x_sum = sum + kSamples * shape.channels,
                           .dadd = sum + 2 * kSamples * shape.channels},
      range, set);
  std::vector<std::uint8_t> bytes;
  const auto append = [&](const auto& values) {
    const auto* first = reinterpret_cast<const std::uint8_t*>(values.data());
    bytes.insert(bytes.end(), first, first + values.size() * sizeof(values[0]));
  };
  append(y), append(dx1), append(dx2), append(statistics), append(sums);
  return bytes;
}

TEST(GroupNormKernel, GivesTheSameBitsWithEveryInstructionSet) {
  for (const GroupNormShape& shape : {GroupNormShape{784, 32, 8, 32},
                                      {784, 96, 32, 64},
                                      {65, 128, 32, 128},
                                      {9, 64, 4, 40},
                                      {25, 20, 5, 20},
                                      {1, 66, 2, 33},
                                      {16, 512, 8, 512},
                                      {49, 7, 1, 7}}) {
    const bool dropout = shape.first_channels == shape.channels;
    const auto portable = outputs<float>(shape, true, dropout, InstructionSet::portable);
    const auto portable_bfloat16 = outputs<BFloat16>(shape, false, dropout, InstructionSet::portable);
    for (const InstructionSet set : kSets) {
      if (!supports(set)) continue;
      EXPECT_EQ(outputs<float>(shape, true, dropout, set), portable) << shape.channels << " " << static_cast<int>(set);
      EXPECT_EQ(outputs<BFloat16>(shape, false, dropout, set), portable_bfloat16)
          << shape.channels << " " << static_cast<int>(set);
    }
  }
}

TEST(GroupNormKernel, KeepsNanAndSubnormalNumbersInBfloat16) {
  // Without activation, one channel in a group and rstd of nearly 1, y is x rounded to bfloat16 and back.
  const float kNan = std::numeric_limits<float>::quiet_NaN(), kTiny = 0x1.8p-130F;
  for (const InstructionSet set : kSets) {
    if (!supports(set)) continue;
    const GroupNormShape shape{2, 16, 16, 16};
    std::vector<BFloat16> x(32), y(32);
    for (std::size_t c = 0; c < 16; ++c) {
      x[c] = element<BFloat16>(1);
      x[16 + c] = element<BFloat16>(c == 3 ? kNan : -1.0F);
    }
    const std::vector<float> gamma(16, kTiny), beta(16, 0);
    std::vector<float> mean(16), rstd(16), scratch(group_norm_scratch(shape));
    group_norm_forward(shape,
                       GroupNormParameters{.gamma = gamma.data(), .beta = beta.data(), .activation = Activation::none},
                       GroupNormForward<BFloat16>{{x.data(), nullptr}, y.data(), mean.data(), rstd.data(), 0},
                       {0, 1, scratch.data()}, set);
    for (std::size_t c = 0; c < 16; ++c) {
      const float value = comm::float_from_bfloat16(static_cast<std::uint16_t>(y[c]));
      if (c == 3)
        EXPECT_TRUE(std::isnan(value));
      else
        EXPECT_EQ(value, kTiny);
    }
  }
}

TEST(DropoutMask, HasTheBitsOfTheElementsInNchwOrder) {
  for (const double keep : {0.3, 0.9, 1.0}) {
    for (const auto& [pixels, channels] : {std::pair<std::int64_t, std::int64_t>{49, 40}, {1, 3}, {784, 32}}) {
      const Stream stream{.seed = 3, .purpose = Purpose::dropout, .call_site = 2};
      std::vector<std::uint32_t> bits(static_cast<std::size_t>(pixels * channels));
      fill_bits(stream, 12, bits);
      std::vector<std::uint16_t> mask(dropout_mask_size(pixels, channels));
      std::vector<std::uint32_t> scratch(dropout_mask_scratch(pixels));
      fill_dropout_mask(stream, 12, keep, pixels, channels, mask.data(), scratch.data());
      for (std::int64_t c = 0; c < channels; ++c) {
        for (std::int64_t p = 0; p < pixels; ++p) {
          const bool kept = (mask[static_cast<std::size_t>(c / 16 * pixels + p)] >> (c % 16) & 1) != 0;
          ASSERT_EQ(kept, bits[static_cast<std::size_t>(c * pixels + p)] < std::ldexp(keep, 32)) << c << " " << p;
        }
      }
    }
  }
}

}  // namespace
}  // namespace perrin::trainer
