#include <gmock/gmock.h>

#include <algorithm>
#include <vector>

#include "comm/comm_error.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

TEST(World, NumbersItsRanks) {
  World& world = perrin::test::world();
  EXPECT_GE(world.rank(), 0);
  EXPECT_LT(world.rank(), world.size());
  EXPECT_EQ(world.is_root(), world.rank() == 0);
  EXPECT_EQ(world.control().rank(), world.rank());
  EXPECT_EQ(world.control().size(), world.size());
  EXPECT_EQ(world.gradients().size(), world.size());
  EXPECT_NE(&world.control(), &world.gradients());
  EXPECT_EQ(world.control().all_reduce_value<std::int64_t>(world.rank(), ReduceOp::sum),
            world.size() * (world.size() - 1) / 2);
}

TEST(World, OnOneNodeHasLocalRanksLikeRanksAndOneHost) {
  World& world = perrin::test::world();
  EXPECT_EQ(world.local_rank(), world.rank());
  EXPECT_EQ(world.local_size(), world.size());
  EXPECT_EQ(world.host_names().size(), static_cast<std::size_t>(world.size()));
  EXPECT_FALSE(world.host_name().empty());
  EXPECT_THAT(world.host_names(), testing::Each(world.host_name()));
}

TEST(World, WithoutGpuStaysInHostMemoryUnlessCudaIsDemanded) {
  World& world = perrin::test::world();
  if (device_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(world.use_device(DeviceChoice::cpu), std::nullopt);
  EXPECT_EQ(world.use_device(DeviceChoice::automatic), std::nullopt);
  EXPECT_NE(world.gradients().backend(), "nccl");
  try {
    (void)world.use_device(DeviceChoice::cuda);
    ADD_FAILURE() << "there is no GPU";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("no GPU for rank 0"));
  }
  world.control().barrier().wait();
}

}  // namespace
}  // namespace perrin::comm
