// An abort that hangs ends the process within its grace, with its own code; what stays alive is told at the end.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <vector>

#include "comm/local_communicator.hpp"
#include "comm/nccl_communicator.hpp"
#include "comm/world.hpp"
#include "tests/comm/host_gpu/host_gpu.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;

class NcclAbort : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

/// A collective that never completes and is given up.
void give_up_with(host_gpu::Fault fault) {
  host_gpu::inject({fault, 0, 0});
  LocalCommunicator control;
  const auto communicator = make_nccl_communicator(control, 0, {.deadline = 100ms});
  try {
    communicator->barrier().wait();
  } catch (const std::exception&) {
  }
}

TEST_F(NcclAbort, ThatHangsEndsTheProcessWithItsOwnCode) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EXIT(give_up_with(host_gpu::Fault::abort_hangs), testing::ExitedWithCode(kCommExitCode),
              "ncclCommAbort of a failed communicator took longer than 5000 ms");
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
}

TEST_F(NcclAbort, ThatWorksLeavesNothing) {
  EXPECT_EXIT(
      {
        give_up_with(host_gpu::Fault::never_completes);
        std::exit(host_gpu::alive() == host_gpu::Alive{} ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST_F(NcclAbort, StreamThatStaysIsToldAtTheEndOfTheProcess) {
  EXPECT_EXIT(
      {
        cudaStream_t stream = nullptr;
        cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, 0);
        std::exit(0);
      },
      testing::ExitedWithCode(host_gpu::kLeakExitCode), "1 streams");
}

}  // namespace
}  // namespace perrin::comm
