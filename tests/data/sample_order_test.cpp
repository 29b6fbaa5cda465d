#include "data/sample_order.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace perrin::data {
namespace {

bool epoch_is_bijection(const SampleOrder& order, std::uint64_t epoch) {
  std::vector<std::uint64_t> samples(order.size());
  order.fill(epoch * order.size(), samples);
  std::vector<bool> seen(order.size());
  for (const std::uint64_t sample : samples) {
    if (sample >= order.size() || seen[sample]) return false;
    seen[sample] = true;
  }
  return true;
}

TEST(SampleOrder, VisitsEverySampleOncePerEpochForEverySmallSize) {
  for (std::uint64_t size = 1; size <= 600; ++size) {
    for (const std::uint64_t seed : {0u, 1u, 12345u}) {
      const SampleOrder order(size, seed);
      for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
        ASSERT_TRUE(epoch_is_bijection(order, epoch)) << size << " " << seed << " " << epoch;
      }
    }
  }
}

TEST(SampleOrder, VisitsEverySampleOncePerEpochAroundTheSwitchAndPowersOfTwo) {
  constexpr std::uint64_t kMillion = 1 << 20;
  for (const std::uint64_t size :
       {std::uint64_t{1022}, std::uint64_t{1023}, std::uint64_t{1024}, std::uint64_t{1025}, std::uint64_t{60000},
        kMillion - 1, kMillion, kMillion + 1, std::uint64_t{1281167}}) {
    for (const std::uint64_t epoch : {0u, 7u}) {
      EXPECT_TRUE(epoch_is_bijection(SampleOrder(size, 42), epoch)) << size;
    }
  }
}

TEST(SampleOrder, StaysInRangeForTheLargestSizes) {
  for (const std::uint64_t size :
       {std::uint64_t{1'000'000'000'000}, SampleOrder::kMaxSize - 1, SampleOrder::kMaxSize}) {
    const SampleOrder order(size, 3);
    std::set<std::uint64_t> seen;
    for (std::uint64_t position = size - 500; position < size + 500; ++position) {
      const std::uint64_t sample = order.at(position);
      EXPECT_LT(sample, size);
      seen.insert(sample);
    }
    EXPECT_GE(seen.size(), 990u);  // two epochs meet here, each without repeats
  }
}

TEST(SampleOrder, AMillionPositionsInARowMeetNoSampleTwiceAtTenToTheTwelve) {
  constexpr std::uint64_t kSize = 1'000'000'000'000;
  constexpr std::size_t kWindow = 1'000'000, kBlock = 4096;
  for (const std::uint64_t first : {std::uint64_t{0}, kSize / 3, 2 * kSize - kWindow}) {  // each within one epoch
    std::vector<std::uint64_t> samples(kWindow);
    const SampleOrder order(kSize, 5);
    // In blocks, as batches are read: a block needs no more memory than it holds, wherever it lies.
    for (std::size_t done = 0; done < kWindow; done += kBlock)
      order.fill(first + done, std::span(samples).subspan(done, std::min(kBlock, kWindow - done)));
    std::sort(samples.begin(), samples.end());
    EXPECT_EQ(std::adjacent_find(samples.begin(), samples.end()), samples.end()) << first;
    EXPECT_LT(samples.back(), kSize);
    // Spread over all of it: the largest gap of a million uniform numbers is near ln(10^6) = 13.8 mean gaps.
    std::uint64_t largest_gap = samples.front();
    for (std::size_t i = 1; i < kWindow; ++i) largest_gap = std::max(largest_gap, samples[i] - samples[i - 1]);
    EXPECT_LT(largest_gap, 30 * (kSize / kWindow)) << first;
  }
}

TEST(SampleOrder, NeedsTheSameMemoryForAnySize) {
  // The whole of its state: no table grows with the number of samples.
  static_assert(sizeof(SampleOrder) <= 32 && std::is_trivially_copyable_v<SampleOrder>);
}

TEST(SampleOrder, SeekingEqualsReadingOn) {
  for (const std::uint64_t size : {std::uint64_t{10}, std::uint64_t{1500}}) {
    const SampleOrder order(size, 9);
    std::vector<std::uint64_t> stream(5 * size);
    order.fill(0, stream);
    for (std::uint64_t position = 0; position < stream.size(); ++position) {
      ASSERT_EQ(order.at(position), stream[position]);
    }
    std::vector<std::uint64_t> tail(stream.size() - 3 * size / 2);
    order.fill(3 * size / 2, tail);
    EXPECT_TRUE(std::equal(tail.begin(), tail.end(), stream.begin() + static_cast<std::ptrdiff_t>(3 * size / 2)));
  }
}

TEST(SampleOrder, SeedsAndEpochsGiveOtherOrdersAndDoNotAddUp) {
  for (const std::uint64_t size : {std::uint64_t{500}, std::uint64_t{5000}}) {
    const auto epoch_of = [&](std::uint64_t seed, std::uint64_t epoch) {
      std::vector<std::uint64_t> samples(size);
      SampleOrder(size, seed).fill(epoch * size, samples);
      return samples;
    };
    std::set<std::vector<std::uint64_t>> distinct;
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      for (std::uint64_t epoch = 0; epoch < 8; ++epoch) distinct.insert(epoch_of(seed, epoch));
    }
    EXPECT_EQ(distinct.size(), 64u);
  }
}

/// (chi-square - degrees of freedom) / sqrt(2 degrees of freedom): about standard normal for a random order.
double z_score(const std::vector<double>& counts, double expected) {
  double chi_square = 0;
  for (const double count : counts) chi_square += (count - expected) * (count - expected) / expected;
  const double freedom = static_cast<double>(counts.size()) - 1;
  return (chi_square - freedom) / std::sqrt(2 * freedom);
}

TEST(SampleOrder, DifferencesOfNeighboursAreUniform) {
  // The test that finds weak ciphers: three rounds fail it with z = 11,432, TensorFlow's default with 20,334.
  constexpr std::size_t kBins = 256;
  for (const std::uint64_t size : {std::uint64_t{50'000}, std::uint64_t{1'000'000}}) {
    std::vector<std::uint64_t> samples(size);
    SampleOrder(size, 7).fill(3 * size, samples);
    std::vector<double> counts(kBins);
    for (std::size_t i = 0; i + 1 < size; ++i) counts[(samples[i + 1] + size - samples[i]) % size * kBins / size] += 1;
    EXPECT_LT(std::abs(z_score(counts, static_cast<double>(size - 1) / kBins)), 4) << size;
  }
}

TEST(SampleOrder, AllOrdersOfFiveSamplesAreEquallyLikely) {
  constexpr int kEpochs = 120'000;
  const SampleOrder order(5, 3);
  std::vector<double> counts(120);
  for (std::uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    std::vector<std::uint64_t> p(5);
    order.fill(epoch * 5, p);
    std::size_t rank = 0;  // Lehmer code
    for (std::size_t i = 0; i < 5; ++i) {
      std::size_t smaller_after = 0;
      for (std::size_t j = i + 1; j < 5; ++j) smaller_after += p[j] < p[i] ? 1 : 0;
      rank = rank * (5 - i) + smaller_after;
    }
    counts[rank] += 1;
  }
  EXPECT_LT(std::abs(z_score(counts, kEpochs / 120.0)), 4);
}

TEST(SampleOrder, IsFixedByItsAlgorithmId) {
  // If these change, kAlgorithm must: runs that resume would train on other images than they recorded.
  ASSERT_EQ(SampleOrder::kAlgorithm, "perrin-order-1");
  const auto first = [](std::uint64_t size, std::uint64_t seed) {
    std::vector<std::uint64_t> samples(6);
    SampleOrder(size, seed).fill(size - 3, samples);
    return samples;
  };
  EXPECT_EQ(first(10, 1), (std::vector<std::uint64_t>{7, 5, 1, 1, 4, 6}));
  EXPECT_EQ(first(60'000, 1), (std::vector<std::uint64_t>{25092, 34852, 32538, 18724, 52908, 48134}));
}

TEST(SampleOrder, RefusesImpossibleSizes) {
  EXPECT_THROW(SampleOrder(0, 1), std::invalid_argument);
  EXPECT_THROW(SampleOrder(SampleOrder::kMaxSize + 1, 1), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::data
