// How the NCCL backend starts: library, devices, World; and that the host implementation is as late as NCCL may be.
#include <gmock/gmock.h>
#include <nccl.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>

#include "comm/comm_error.hpp"
#include "comm/cuda_handles.hpp"
#include "comm/nccl_communicator.hpp"
#include "tests/comm/elements.hpp"
#include "tests/comm/host_gpu/host_gpu.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;

constexpr int kDevices = 8;

class NcclStart : public testing::Test {
 protected:
  void TearDown() override {
    ::unsetenv("NCCL_HOSTID");
    host_gpu::set_library_version(0);
    host_gpu::set_device_count(kDevices);
    host_gpu::set_launch_delay(300us);
    world().control().barrier().wait();
  }
  static World& world() { return perrin::test::world(); }

  static std::string refusal(const std::function<void()>& call) {
    try {
      call();
    } catch (const CommError& error) {
      EXPECT_EQ(error.operation(), "start");
      EXPECT_EQ(error.rank(), world().rank());
      return error.what();
    }
    return "no error";
  }
};

TEST_F(NcclStart, OtherLibraryOnOneRankIsRefusedByAllAtOnce) {
  const int last = world().size() - 1;
  if (world().rank() == last) host_gpu::set_library_version(22703);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(refusal([] { (void)test::make_communicator({}); }),
              AllOf(HasSubstr("library loaded on rank " + std::to_string(last) + " is 22703"), HasSubstr("NCCL_ROOT")));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
}

TEST_F(NcclStart, DeviceThatIsNotThereIsRefused) {
  EXPECT_THROW((void)make_nccl_communicator(world().control(), kDevices, {}), CommError);
}

TEST_F(NcclStart, RanksOnOneDeviceAreRefusedByName) {
  if (world().size() < 2) GTEST_SKIP() << "one rank shares with nobody";
  host_gpu::set_device_count(1);
  EXPECT_THAT(refusal([] { (void)world().use_device(DeviceChoice::cuda); }),
              AllOf(HasSubstr("ranks 0, 1"), HasSubstr("share the GPU 0000:10:00.0")));
  EXPECT_EQ(world().use_device(DeviceChoice::automatic), std::nullopt);
}

TEST_F(NcclStart, RanksOnOneDeviceAreTakenByNcclOnlyWhereTheyMayShareIt) {
  if (world().size() < 2) GTEST_SKIP() << "one rank shares with nobody";
  host_gpu::set_device_count(1);
  EXPECT_THROW((void)make_nccl_communicator(world().control(), 0, {.deadline = 5s}), CommError);

  EXPECT_EQ(world().use_device(DeviceChoice::cuda, DeviceSharing::allowed), 0);
  // To NCCL each rank is a node of its own, which has sockets and nothing else.
  const std::string host = "perrin-rank-" + std::to_string(world().rank());
  const std::pair<const char*, const char*> recipe[] = {
      {"NCCL_HOSTID", host.c_str()},     {"NCCL_NET", "Socket"},     {"NCCL_IB_DISABLE", "1"},
      {"NCCL_SOCKET_IFNAME", "=lo"},     {"NCCL_NVLS_ENABLE", "0"},  {"NCCL_MAX_CTAS", "2"},
      {"NCCL_SOCKET_FAMILY", "AF_INET"}, {"NCCL_MNNVL_ENABLE", "0"},
  };
  for (const auto& [name, value] : recipe) EXPECT_STREQ(std::getenv(name), value) << name;
  EXPECT_EQ(world().gradients().backend(), "nccl");
  EXPECT_EQ(world().gradients().all_reduce_value(1.0, ReduceOp::sum), world().size());
}

TEST_F(NcclStart, RankWithoutDeviceIsRefusedOnAllRanks) {
  host_gpu::set_device_count(0);
  EXPECT_THAT(refusal([] { (void)world().use_device(DeviceChoice::cuda); }), HasSubstr("no GPU for rank 0"));
  EXPECT_EQ(world().use_device(DeviceChoice::automatic), std::nullopt);
}

TEST_F(NcclStart, WorldPutsGradientsOnTheDeviceOfTheLocalRank) {
  EXPECT_EQ(world().use_device(DeviceChoice::automatic), world().size() == 1 ? 0 : world().local_rank());
  EXPECT_EQ(world().gradients().backend(), "nccl");
  test::Elements data(DataType::float32, 100);
  for (std::size_t i = 0; i < data.count(); ++i) data.set(i, 3);
  world().gradients().all_reduce(data.data(), 100, DataType::float32, ReduceOp::sum).wait();
  EXPECT_THAT(data.values(), testing::Each(3 * world().size()));
}

/// Waits for NCCL to have taken the last call in.
void settle(ncclComm_t comm) {
  for (ncclResult_t state = ncclInProgress; state == ncclInProgress; std::this_thread::sleep_for(1ms))
    ASSERT_EQ(ncclCommGetAsyncError(comm, &state), ncclSuccess);
}

// What comm/ must not do, on purpose: otherwise the tests above could not find it.
TEST_F(NcclStart, HostImplementationLetsAnEventComeTooEarlyAndRefusesACallTooEarly) {
  ncclUniqueId id{};
  if (world().is_root()) ncclGetUniqueId(&id);
  world().control().broadcast(std::span(reinterpret_cast<std::uint8_t*>(&id), sizeof(id)), 0).wait();
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  make_device_current(world().local_rank());
  ncclComm_t comm = nullptr;
  ASSERT_EQ(ncclCommInitRankConfig(&comm, world().size(), id, world().rank(), &config), ncclInProgress);
  settle(comm);

  host_gpu::set_launch_delay(100ms);
  const CudaStream stream;
  const CudaEvent early;
  test::Elements data(DataType::float32, 1);
  data.set(0, 1);
  const auto reduce = [&] {
    return ncclAllReduce(data.data(), data.data(), 1, ncclFloat32, ncclSum, comm, stream.get());
  };
  ASSERT_EQ(reduce(), ncclInProgress);
  EXPECT_EQ(reduce(), ncclInvalidUsage);
  ASSERT_EQ(cudaEventRecord(early.get(), stream.get()), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(early.get()), cudaSuccess);
  ncclResult_t state = ncclSuccess;
  ncclCommGetAsyncError(comm, &state);
  EXPECT_EQ(state, ncclInProgress) << "the event came before the operation was on the stream";

  settle(comm);
  ASSERT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  EXPECT_EQ(data.get(0), world().size());
  ASSERT_EQ(ncclCommFinalize(comm), ncclInProgress);
  settle(comm);
  EXPECT_EQ(ncclCommDestroy(comm), ncclSuccess);
}

}  // namespace
}  // namespace perrin::comm
