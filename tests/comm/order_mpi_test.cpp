// Operations start and finish in the order of submission, as on one stream.
#include <gmock/gmock.h>

#include <chrono>
#include <thread>
#include <vector>

#include "comm/comm_error.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;

TEST(Order, OneBufferMayPassThroughSeveralOperationsWithoutWaiting) {
  World& world = perrin::test::world();
  std::vector<std::int64_t> data(1001, world.rank() + 1);
  const std::span<std::int64_t> span(data);
  std::vector<Work> works;
  works.push_back(world.gradients().all_reduce(span, ReduceOp::sum));    // 1 + ... + n
  works.push_back(world.gradients().all_reduce(span, ReduceOp::sum));    // times n
  works.push_back(world.gradients().broadcast(span, world.size() - 1));  // no change
  works.push_back(world.gradients().all_reduce(span, ReduceOp::max));    // no change
  works.back().wait();
  const std::int64_t n = world.size();
  EXPECT_THAT(data, testing::Each(n * (n + 1) / 2 * n));
  for (Work& work : works) EXPECT_TRUE(work.done()) << "an earlier operation is done before a later one";
}

TEST(Order, ManyOperationsOfRandomSizesAllArrive) {
  World& world = perrin::test::world();
  constexpr std::size_t kOperations = 200;
  std::vector<std::vector<float>> buckets;
  std::vector<Work> works;
  for (std::size_t k = 0; k < kOperations; ++k) buckets.emplace_back(k * k % 4999, static_cast<float>(k));
  for (auto& bucket : buckets) {
    works.push_back(world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum));
    if (works.size() % 37 == 0) std::this_thread::sleep_for(1ms * world.rank());  // ranks drift apart
  }
  for (Work& work : works) work.wait();
  for (std::size_t k = 0; k < kOperations; ++k) {
    EXPECT_THAT(buckets[k], testing::Each(static_cast<float>(k * static_cast<std::size_t>(world.size()))));
  }
}

TEST(Order, OfOneCommunicatorDoesNotHoldUpTheOther) {
  World& world = perrin::test::world();
  std::vector<float> bucket(1000, 1.0f);
  // Each rank submits to the two in another order: they must not wait for each other.
  Work gradient;
  if (world.rank() % 2 == 0) gradient = world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum);
  EXPECT_EQ(world.control().all_reduce_value<std::int64_t>(1, ReduceOp::sum), world.size());
  if (world.rank() % 2 == 1) gradient = world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum);
  gradient.wait();
  EXPECT_THAT(bucket, testing::Each(static_cast<float>(world.size())));
}

TEST(Order, DifferentCountsOnTheRanksAreAnError) {
  World& world = perrin::test::world();
  if (world.size() < 2) GTEST_SKIP() << "one rank cannot differ from itself";
  const auto communicator = world.make_communicator({.deadline = 2s});
  std::vector<float> data(world.rank() == 0 ? 100 : 200);
  // The rank that receives too much says so at once; one that receives less than it sent may see a late peer.
  EXPECT_THROW(communicator->all_reduce(std::span<float>(data), ReduceOp::sum).wait(), CommError);
  EXPECT_TRUE(communicator->failed());
}

TEST(Order, DifferentReductionsOnRanksOfANodeAreAnErrorThatNamesBoth) {
  World& world = perrin::test::world();
  if (world.size() < 2) GTEST_SKIP() << "one rank cannot differ from itself";
  const auto communicator = world.make_communicator({.deadline = 20s});
  std::vector<float> data(100);
  const auto begun = std::chrono::steady_clock::now();
  try {
    communicator->all_reduce(std::span<float>(data), world.rank() == 0 ? ReduceOp::sum : ReduceOp::max).wait();
    FAIL() << "rank 0 submitted another operation";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("400 bytes float32 (sum)"),
                                             testing::HasSubstr("400 bytes float32 (max)")));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 10s);
}

}  // namespace
}  // namespace perrin::comm
