#include "comm/device.hpp"

#include <gmock/gmock.h>

#include "comm/comm_error.hpp"
#include "comm/local_communicator.hpp"
#include "comm/nccl_communicator.hpp"

namespace perrin::comm {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(DeviceOfRank, IsTheOnlyVisibleOneElseTheLocalRank) {
  EXPECT_EQ(device_of_rank(1, 0), 0);
  EXPECT_EQ(device_of_rank(1, 5), 0) << "Slurm binding by task shows each task one device, numbered 0";
  EXPECT_EQ(device_of_rank(8, 5), 5);
  EXPECT_EQ(device_of_rank(0, 0), std::nullopt);
  EXPECT_EQ(device_of_rank(2, 2), std::nullopt);
  EXPECT_EQ(device_of_rank(2, 3, DeviceSharing::allowed), 1) << "shared in turns";
  EXPECT_EQ(device_of_rank(0, 3, DeviceSharing::allowed), std::nullopt);
}

TEST(SharedDevices, AreNamedByHostBusIdAndRanks) {
  EXPECT_THAT(describe_shared_devices({"n1", "n1", "n2", "n2"},
                                      {"0000:65:00.0", "0000:66:00.0", "0000:65:00.0", "0000:65:00.0"}),
              AllOf(HasSubstr("ranks 2, 3 on host n2"), HasSubstr("0000:65:00.0")));
}

TEST(SharedDevices, AreNotTheSameBusIdOnTwoHostsNorRanksWithoutDevice) {
  EXPECT_EQ(describe_shared_devices({"n1", "n2"}, {"0000:65:00.0", "0000:65:00.0"}), "");
  EXPECT_EQ(describe_shared_devices({"n1", "n1"}, {"", ""}), "");
}

TEST(DeviceCount, IsNotNegativeAndZeroWithoutCuda) {
  const int count = device_count();
  EXPECT_GE(count, 0);
  EXPECT_TRUE(built_with_cuda() || count == 0);
}

TEST(DeviceVersions, NameNcclWhereItIsBuiltIn) {
  EXPECT_THAT(device_versions(), HasSubstr(built_with_cuda() ? "NCCL 2." : ""));
}

TEST(NcclCommunicator, OnADeviceThatIsNotThereIsRefused) {
  LocalCommunicator control;
  EXPECT_THROW((void)make_nccl_communicator(control, device_count(), {}), CommError);
}

TEST(DeviceBusId, OfADeviceThatIsNotThereIsRefused) { EXPECT_THROW((void)device_bus_id(device_count()), CommError); }

}  // namespace
}  // namespace perrin::comm
