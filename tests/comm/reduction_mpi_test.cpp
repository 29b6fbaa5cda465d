// Order and precision of sums: the same bits on all ranks and in all runs.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "comm/bfloat16.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

std::vector<float> gradient_of(int rank, std::size_t count) {
  std::mt19937 engine(static_cast<unsigned>(rank) + 1);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine) * std::exp2(normal(engine));
  return values;
}

/// ((r0 + r1) + (r2 + r3)) + ... in float, as the interface promises.
float tree_sum(const std::vector<std::vector<float>>& ranks, std::size_t i) {
  std::vector<float> level;
  for (const auto& rank : ranks) level.push_back(rank[i]);
  while (level.size() > 1) {
    std::vector<float> next;
    for (std::size_t k = 0; k < level.size(); k += 2)
      next.push_back(k + 1 < level.size() ? level[k] + level[k + 1] : level[k]);
    level = next;
  }
  return level[0];
}

TEST(Reduction, IsTheSameBitsOnAllRanksInEveryRunAndForAllPieceSizes) {
  World& world = perrin::test::world();
  constexpr std::size_t kCount = 700'003;  // enough that the copies for other ranks pass the caches by
  std::vector<std::vector<float>> all;
  for (int r = 0; r < world.size(); ++r) all.push_back(gradient_of(r, kCount));
  for (const std::size_t piece_bytes : {std::size_t{8} << 20, std::size_t{4100}, std::size_t{65'536}}) {
    for (const bool shared : {true, false}) {
      const auto communicator = world.make_communicator({.piece_bytes = piece_bytes, .share_node_memory = shared});
      for (const std::size_t count : {kCount, kCount / 7, std::size_t{1}}) {
        std::vector<float> sum = all[static_cast<std::size_t>(world.rank())];
        communicator->all_reduce(std::span<float>(sum).first(count), ReduceOp::sum).wait();
        for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(sum[i], tree_sum(all, i)) << i;
      }
    }
  }
}

TEST(Reduction, ScattersTheSameBitsThatAllReduceGives) {
  World& world = perrin::test::world();
  constexpr std::size_t kCount = 10'007;
  const auto ranks = static_cast<std::size_t>(world.size());
  std::vector<float> gradient = gradient_of(world.rank(), kCount * ranks);
  std::vector<float> part(kCount);
  world.gradients().reduce_scatter(std::span<const float>(gradient), std::span<float>(part), ReduceOp::sum).wait();
  world.gradients().all_reduce(std::span<float>(gradient), ReduceOp::sum).wait();
  EXPECT_EQ(
      std::memcmp(part.data(), &gradient[static_cast<std::size_t>(world.rank()) * kCount], kCount * sizeof(float)), 0);
}

TEST(Reduction, OfBFloat16AccumulatesInFloatAndRoundsOnce) {
  World& world = perrin::test::world();
  constexpr std::size_t kCount = 5'001;
  std::vector<std::vector<float>> all;
  for (int r = 0; r < world.size(); ++r) {
    all.push_back(gradient_of(r, kCount));
    for (float& value : all.back()) value = float_from_bfloat16(bfloat16_from_float(value));
  }
  std::vector<std::uint16_t> data;
  for (const float value : all[static_cast<std::size_t>(world.rank())]) data.push_back(bfloat16_from_float(value));
  world.gradients().all_reduce(data.data(), kCount, DataType::bfloat16, ReduceOp::sum).wait();
  for (std::size_t i = 0; i < kCount; ++i) ASSERT_EQ(data[i], bfloat16_from_float(tree_sum(all, i))) << i;
}

}  // namespace
}  // namespace perrin::comm
