#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {
namespace {

std::vector<std::uint64_t> positions_from(std::uint64_t first, std::size_t count) {
  std::vector<std::uint64_t> positions(count);
  std::iota(positions.begin(), positions.end(), first);
  return positions;
}

TEST(KeyedNoise, IsTheSameForAnySplitOfABatch) {
  const std::vector<std::uint64_t> positions = positions_from(1000, 12);
  const std::span<const std::uint64_t> all(positions);
  const Stream stream{.seed = 11, .purpose = Purpose::noise};
  for (const std::size_t first : {1u, 5u, 11u}) {
    const auto split = [&](const auto& draw) { return at::cat({draw(all.first(first)), draw(all.subspan(first))}); };
    const auto normal = [&](std::span<const std::uint64_t> part) { return keyed_normal(stream, part, {3, 5, 7}); };
    const auto flips = [&](std::span<const std::uint64_t> part) { return keyed_flips(stream, part); };
    const auto dropout = [&](std::span<const std::uint64_t> part) {
      return keyed_dropout(stream, part, {3, 5, 7}, 0.9);
    };
    EXPECT_TRUE(normal(all).equal(split(normal)));
    EXPECT_TRUE(flips(all).equal(split(flips)));
    EXPECT_TRUE(dropout(all).equal(split(dropout)));
  }
}

TEST(KeyedNoise, GivesContiguousTensorsOfTheStatedTypes) {
  const std::vector<std::uint64_t> positions = positions_from(0, 2);
  const at::Tensor normal = keyed_normal({}, positions, {3, 4, 5});
  EXPECT_EQ(normal.sizes(), (std::vector<std::int64_t>{2, 3, 4, 5}));
  EXPECT_EQ(normal.scalar_type(), at::kFloat);
  EXPECT_TRUE(normal.is_contiguous());
  EXPECT_EQ(keyed_flips({}, positions).scalar_type(), at::kBool);
  EXPECT_EQ(keyed_normal({}, {}, {3}).size(0), 0);
}

TEST(KeyedUniform, IsUniformAndNeitherZeroNorOne) {
  constexpr std::size_t kBins = 100, kDraws = 200'000;
  std::vector<double> counts(kBins, 0);
  for (std::uint64_t position = 0; position < kDraws; ++position) {
    const double u = keyed_uniform({.seed = 6, .purpose = Purpose::timestep}, position);
    ASSERT_TRUE(u > 0 && u < 1) << position;
    ++counts[static_cast<std::size_t>(u * kBins)];
  }
  const double expected = static_cast<double>(kDraws) / kBins;
  double chi_squared = 0;
  for (const double count : counts) chi_squared += (count - expected) * (count - expected) / expected;
  EXPECT_LT(chi_squared, 148.2);  // 99 degrees of freedom, exceeded with probability 0.001
  EXPECT_GT(chi_squared, 60.0);   // and a fit better than chance would be as wrong
}

TEST(KeyedFlips, AreFair) {
  const double mean = keyed_flips({.seed = 8, .purpose = Purpose::flip}, positions_from(0, 100'000))
                          .to(at::kDouble)
                          .mean()
                          .item<double>();
  EXPECT_NEAR(mean, 0.5, 5 * 0.5 / std::sqrt(100'000.0));
}

TEST(KeyedDropout, KeepsTheStatedShareAndTheMean) {
  const double keep = 0.9;
  const at::Tensor factors =
      keyed_dropout({.seed = 8, .purpose = Purpose::dropout}, positions_from(0, 10), {100, 100}, keep);
  const at::Tensor kept = factors != 0;
  EXPECT_TRUE(factors.masked_select(kept).eq(static_cast<float>(1 / keep)).all().item<bool>());
  EXPECT_NEAR(kept.to(at::kDouble).mean().item<double>(), keep, 5 * std::sqrt(keep * (1 - keep) / 1e5));
  EXPECT_TRUE(keyed_dropout({}, positions_from(0, 4), {50}, 1.0).eq(1).all().item<bool>());
}

TEST(KeyedNoise, RefusesWhatMakesNoSense) {
  EXPECT_THROW(keyed_dropout({}, positions_from(0, 1), {1}, 0.0), std::invalid_argument);
  EXPECT_THROW(keyed_normal({}, positions_from(kPositionLimit, 1), {1}), std::out_of_range);
}

}  // namespace
}  // namespace perrin::trainer
