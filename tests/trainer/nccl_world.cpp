// Gives every test of its binary a World whose gradients go over NCCL: here the host implementation of
// tests/comm/host_gpu, whose device memory is the host's, so that tensors on the CPU serve.
#include <gtest/gtest.h>

#include "tests/support/world.hpp"

namespace perrin::trainer {
namespace {

class GradientsOverNccl final : public testing::Environment {
 public:
  void SetUp() override {
    comm::World& world = perrin::test::world();
    ASSERT_TRUE(world.use_device(comm::DeviceChoice::cuda));
    ASSERT_EQ(world.gradients().backend(), world.size() > 1 ? "nccl" : world.gradients().backend());
  }
};

const testing::Environment* const kEnvironment = testing::AddGlobalTestEnvironment(new GradientsOverNccl);

}  // namespace
}  // namespace perrin::trainer
