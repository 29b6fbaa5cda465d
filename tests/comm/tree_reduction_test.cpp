#include "comm/tree_reduction.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "comm/bfloat16.hpp"

namespace perrin::comm {
namespace {

template <typename T>
std::vector<T> reduced(const std::vector<std::vector<T>>& ranks, DataType type, ReduceOp op) {
  std::vector<const std::byte*> sources;
  for (const auto& rank : ranks) sources.push_back(reinterpret_cast<const std::byte*>(rank.data()));
  std::vector<T> output(ranks.front().size());
  reduce_in_tree(sources, reinterpret_cast<std::byte*>(output.data()), output.size(), type, op);
  return output;
}

std::vector<std::vector<float>> random_floats(std::size_t ranks, std::size_t count) {
  std::mt19937 engine(7);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> all(ranks, std::vector<float>(count));
  for (auto& rank : all) {
    for (float& value : rank) value = normal(engine);
  }
  return all;
}

TEST(TreeReduction, AddsNeighboursThenPairsOfNeighbours) {
  // 1025 elements: two whole blocks and one element.
  const auto s = random_floats(7, 1025);
  const std::vector<float> of_4 = reduced<float>({s[0], s[1], s[2], s[3]}, DataType::float32, ReduceOp::sum);
  const std::vector<float> of_7 = reduced<float>(s, DataType::float32, ReduceOp::sum);
  for (std::size_t i = 0; i < of_4.size(); ++i) {
    const float left = (s[0][i] + s[1][i]) + (s[2][i] + s[3][i]);
    EXPECT_EQ(of_4[i], left);
    EXPECT_EQ(of_7[i], left + ((s[4][i] + s[5][i]) + s[6][i]));
  }
}

TEST(TreeReduction, AccumulatesBFloat16InFloatAndRoundsOnce) {
  // 256 + 1 is a tie that bfloat16 rounds down to 256, so that any number of ones would vanish; in float32 they add up.
  std::vector<std::vector<std::uint16_t>> ranks(4, {bfloat16_from_float(1.0f)});
  ranks[0] = {bfloat16_from_float(256.0f)};
  EXPECT_EQ(float_from_bfloat16(reduced(ranks, DataType::bfloat16, ReduceOp::sum)[0]),
            260.0f);  // 259 is a tie; even is 260
}

TEST(TreeReduction, WrapsIntegers) {
  EXPECT_EQ(reduced<std::uint8_t>({{200}, {100}}, DataType::uint8, ReduceOp::sum)[0], 44);
  const std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(reduced<std::int64_t>({{largest}, {1}}, DataType::int64, ReduceOp::sum)[0],
            std::numeric_limits<std::int64_t>::min());
}

TEST(TreeReduction, TakesExtremesAndKeepsNan) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(reduced<double>({{-3}, {5}, {1}}, DataType::float64, ReduceOp::max)[0], 5);
  EXPECT_EQ(reduced<double>({{-3}, {5}, {1}}, DataType::float64, ReduceOp::min)[0], -3);
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
    EXPECT_TRUE(std::isnan(reduced<double>({{nan}, {5}, {1}}, DataType::float64, op)[0]));
    EXPECT_TRUE(std::isnan(reduced<double>({{1}, {5}, {nan}}, DataType::float64, op)[0]));
  }
}

TEST(TreeReduction, MayWriteOverASourceAndNeedsNoAlignment) {
  const auto s = random_floats(3, 700);
  std::vector<std::vector<std::byte>> shifted;
  std::vector<const std::byte*> sources;
  for (const auto& rank : s) {
    std::vector<std::byte>& bytes = shifted.emplace_back(rank.size() * sizeof(float) + 1);
    std::memcpy(&bytes[1], rank.data(), rank.size() * sizeof(float));
    sources.push_back(&bytes[1]);
  }
  reduce_in_tree(sources, &shifted[1][1], 700, DataType::float32, ReduceOp::sum);
  for (std::size_t i = 0; i < 700; ++i) {
    float value = 0;
    std::memcpy(&value, &shifted[1][1 + i * sizeof(float)], sizeof(float));
    EXPECT_EQ(value, (s[0][i] + s[1][i]) + s[2][i]);
  }
}

}  // namespace
}  // namespace perrin::comm
