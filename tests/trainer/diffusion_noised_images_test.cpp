#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "trainer/diffusion/noised_images.hpp"
#include "trainer/images.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

constexpr double kSigmaData = 0.5;
constexpr Stream kNoise{.seed = 11, .purpose = Purpose::noise};
const std::vector<std::uint64_t> kPositions{3, (std::uint64_t{1} << 40) + 7, 12};
const std::vector<NoiseLevel> kLevels{{0.99, 0.141, 5}, {0.3, 0.954, 600}, {0.01, 0.99995, 990}};

/// [3, channels, 5, 9] with every byte from 0 to 255 among them where that fits.
at::Tensor pixels(std::int64_t channels) {
  const std::int64_t count = 3 * channels * 5 * 9;
  return at::arange(count, at::kLong).mul_(37).remainder_(256).to(at::kByte).view({3, channels, 5, 9});
}

class NoisePixelsForEachPrediction : public testing::TestWithParam<PredictionType> {};

TEST_P(NoisePixelsForEachPrediction, GivesTheBitsOfLibTorchsOperators) {
  const at::Tensor mirrored = at::tensor({1, 0, 1}, at::kByte).to(at::kBool);
  for (const std::int64_t channels : {1, 3, 4}) {
    at::Tensor x_0 = to_model_range(pixels(channels));
    x_0 = at::where(mirrored.view({-1, 1, 1, 1}), x_0.flip({3}), x_0);
    const at::Tensor eps = keyed_normal(kNoise, kPositions, {channels, 5, 9});
    const NoisedImages expected = noise_images(GetParam(), kSigmaData, x_0, eps, kLevels);
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const NoisedImages found =
          noise_pixels(GetParam(), kSigmaData, pixels(channels), mirrored, kNoise, kPositions, kLevels, type);
      EXPECT_TRUE(found.input.is_contiguous(at::MemoryFormat::ChannelsLast));
      EXPECT_TRUE(found.input.equal(expected.input.to(type))) << channels;
      EXPECT_TRUE(found.target.equal(expected.target)) << channels;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Predictions, NoisePixelsForEachPrediction,
                         testing::Values(PredictionType::epsilon, PredictionType::x0, PredictionType::v,
                                         PredictionType::edm));

TEST(NoisePixels, MirrorsNothingUnlessTold) {
  const NoisedImages found =
      noise_pixels(PredictionType::x0, kSigmaData, pixels(3), {}, kNoise, kPositions, kLevels, at::kFloat);
  EXPECT_TRUE(found.target.equal(to_model_range(pixels(3))));
}

TEST(NoisePixels, RefusesPositionsAndLevelsOfAnotherNumber) {
  const auto with = [](const std::vector<std::uint64_t>& positions, const std::vector<NoiseLevel>& levels) {
    return noise_pixels(PredictionType::epsilon, kSigmaData, pixels(1), {}, kNoise, positions, levels, at::kFloat);
  };
  EXPECT_THROW(with({1, 2}, kLevels), std::invalid_argument);
  EXPECT_THROW(with(kPositions, {kLevels[0]}), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
