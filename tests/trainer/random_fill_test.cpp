#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "trainer/random/fill.hpp"

namespace perrin::trainer {
namespace {

constexpr std::size_t kMany = std::size_t{1} << 22;

std::vector<float> normals(const Stream& stream, std::uint64_t position, std::size_t count) {
  std::vector<float> values(count);
  fill_normal(stream, position, values);
  return values;
}

double standard_normal_cdf(double z) { return 0.5 * std::erfc(-z / std::numbers::sqrt2); }

TEST(KeyLayout, PutsEveryFieldInItsOwnBits) {
  const Stream stream{.seed = 0x1122334455667788, .purpose = Purpose::dropout, .call_site = 0xABCD, .step = 0x654321};
  EXPECT_EQ(first_counter(stream, 0xFEDC'BA98'7654), (PhiloxCounter{0, 0xBA987654, 0xABCDFEDC, 0x03654321}));
  EXPECT_EQ(philox_key(stream), (PhiloxKey{0x55667788, 0x11223344}));
}

TEST(KeyLayout, RefusesWhatDoesNotFit) {
  EXPECT_THROW(first_counter({}, kPositionLimit), std::out_of_range);
  EXPECT_THROW(first_counter({.call_site = kCallSiteLimit}, 0), std::out_of_range);
  EXPECT_THROW(first_counter({.step = kStepLimit}, 0), std::out_of_range);
}

TEST(FillBits, GivesThePhiloxWordsInElementOrder) {
  const Stream stream{.seed = 9, .purpose = Purpose::weights};
  std::vector<std::uint32_t> bits(1031);
  fill_bits(stream, 77, bits);
  PhiloxCounter counter = first_counter(stream, 77);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    counter[0] = static_cast<std::uint32_t>(i / 4);
    ASSERT_EQ(bits[i], philox4x32_10(counter, philox_key(stream))[i % 4]) << i;
  }
}

TEST(FillNormal, VectorAndScalarCodeGiveTheSameBits) {
  for (const std::size_t count : {1u, 3u, 255u, 256u, 257u, 1u << 20}) {
    const Stream stream{.seed = count, .purpose = Purpose::noise, .step = 3};
    std::vector<float> scalar(count);
    fill_normal_scalar(stream, 5, scalar);
    EXPECT_EQ(std::memcmp(scalar.data(), normals(stream, 5, count).data(), count * sizeof(float)), 0) << count;
  }
}

TEST(FillNormal, IsTheBoxMullerTransformOfItsWords) {
  const Stream stream{.seed = 21};
  constexpr std::size_t kCount = 1 << 16;
  std::vector<std::uint32_t> bits(kCount);
  fill_bits(stream, 1, bits);
  const std::vector<float> values = normals(stream, 1, kCount);
  for (std::size_t i = 0; i < kCount; i += 2) {
    const double u = (static_cast<double>(bits[i] >> 1) + 0.5) * 0x1p-31;
    const double radius = std::sqrt(-2 * std::log(u));
    const double quadrant = bits[i + 1] >> 30;
    const double within = static_cast<double>(static_cast<std::int32_t>(bits[i + 1] << 2) >> 2) * 0x1p-30;
    const double angle = (quadrant + within) * std::numbers::pi / 2;
    // u is rounded to 24 bits, which moves the radius by up to 2^-25 / radius where it is small.
    const double tolerance = 1e-6 * radius + 0x1p-24 / std::max(radius, 3e-4);
    ASSERT_NEAR(values[i], radius * std::cos(angle), tolerance);
    ASSERT_NEAR(values[i + 1], radius * std::sin(angle), tolerance);
  }
}

TEST(FillNormal, HasTheMomentsOfTheNormalDistribution) {
  const std::vector<float> values = normals({.seed = 3}, 0, kMany);
  double first = 0, second = 0, third = 0, fourth = 0, neighbours = 0;
  for (std::size_t i = 0; i < kMany; ++i) {
    const double z = values[i];
    first += z;
    second += z * z;
    third += z * z * z;
    fourth += z * z * z * z;
    neighbours += i == 0 ? 0 : z * values[i - 1];
  }
  const double n = kMany;
  const auto five_deviations = [n](double variance) { return 5 * std::sqrt(variance / n); };
  EXPECT_NEAR(first / n, 0, five_deviations(1));
  EXPECT_NEAR(second / n, 1, five_deviations(2));
  EXPECT_NEAR(third / n, 0, five_deviations(15));
  EXPECT_NEAR(fourth / n, 3, five_deviations(96));
  EXPECT_NEAR(neighbours / n, 0, five_deviations(1));
}

TEST(FillNormal, PassesTheKolmogorovSmirnovTest) {
  std::vector<float> values = normals({.seed = 4}, 0, kMany);
  std::sort(values.begin(), values.end());
  double distance = 0;
  for (std::size_t i = 0; i < kMany; ++i) {
    const double cdf = standard_normal_cdf(values[i]);
    distance = std::max({distance, cdf - static_cast<double>(i) / kMany, static_cast<double>(i + 1) / kMany - cdf});
  }
  EXPECT_LT(distance * std::sqrt(static_cast<double>(kMany)), 1.95);  // exceeded with probability 0.001
}

TEST(FillNormal, HasTheTailsOfTheNormalDistribution) {
  const std::vector<float> values = normals({.seed = 5}, 0, kMany);
  for (const double z : {2.0, 3.0, 4.0, 4.5}) {
    const double expected = 2 * standard_normal_cdf(-z) * kMany;
    const auto beyond = std::count_if(values.begin(), values.end(), [z](float value) { return std::abs(value) > z; });
    EXPECT_NEAR(static_cast<double>(beyond), expected, 5 * std::sqrt(expected)) << z;
  }
  EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float z) { return std::abs(z) < 6.67f; }));
}

TEST(FillNormal, EveryFieldOfTheKeyChangesTheNumbers) {
  const Stream base{.seed = 1, .purpose = Purpose::noise, .call_site = 0, .step = 0};
  std::vector<std::vector<float>> draws;
  for (const std::uint64_t position :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 32, std::uint64_t{1} << 47}) {
    draws.push_back(normals(base, position, 8));
  }
  for (const Stream& stream :
       {Stream{.seed = 2}, Stream{.seed = 1ull << 63 | 1}, Stream{.seed = 1, .purpose = Purpose::dropout},
        Stream{.seed = 1, .call_site = 1}, Stream{.seed = 1, .step = 1}}) {
    draws.push_back(normals(stream, 0, 8));
  }
  std::sort(draws.begin(), draws.end());
  EXPECT_EQ(std::adjacent_find(draws.begin(), draws.end()), draws.end());
}

}  // namespace
}  // namespace perrin::trainer
