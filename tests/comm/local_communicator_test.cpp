#include "comm/local_communicator.hpp"

#include <gmock/gmock.h>

#include <stdexcept>
#include <vector>

namespace perrin::comm {
namespace {

using testing::ElementsAre;

TEST(LocalCommunicator, IsAWorldOfOneWhereEveryCollectiveIsACopy) {
  LocalCommunicator local;
  Communicator& communicator = local;
  EXPECT_EQ(communicator.rank(), 0);
  EXPECT_EQ(communicator.size(), 1);
  EXPECT_FALSE(communicator.failed());

  std::vector<float> data{1, 2, 3};
  communicator.all_reduce(std::span<float>(data), ReduceOp::sum).wait();
  EXPECT_THAT(data, ElementsAre(1, 2, 3));
  communicator.broadcast(std::span<float>(data), 0).wait();
  EXPECT_THAT(data, ElementsAre(1, 2, 3));

  std::vector<float> output(3);
  communicator.all_gather(std::span<const float>(data), std::span<float>(output)).wait();
  EXPECT_EQ(output, data);
  output.assign(3, 0);
  communicator.reduce_scatter(std::span<const float>(data), std::span<float>(output), ReduceOp::max).wait();
  EXPECT_EQ(output, data);
  output.assign(3, 0);
  Work work = communicator.all_to_all(std::span<const float>(data), std::span<float>(output));
  EXPECT_TRUE(work.done());
  EXPECT_EQ(output, data);
  communicator.barrier().wait();
  EXPECT_EQ(communicator.all_reduce_value<std::int64_t>(41, ReduceOp::min), 41);
}

TEST(LocalCommunicator, RefusesWhatEveryCommunicatorRefuses) {
  LocalCommunicator local;
  Communicator& communicator = local;
  std::vector<float> data(4);
  EXPECT_THROW((void)communicator.all_reduce(nullptr, 1, DataType::float32, ReduceOp::sum), std::invalid_argument);
  EXPECT_THROW((void)communicator.broadcast(std::span<float>(data), 1), std::invalid_argument);
  EXPECT_THROW((void)communicator.broadcast(std::span<float>(data), -1), std::invalid_argument);
  EXPECT_THROW((void)communicator.all_to_all(data.data(), data.data(), 4, DataType::float32), std::invalid_argument);
  EXPECT_THROW((void)communicator.all_gather(data.data(), data.data() + 1, 3, DataType::float32),
               std::invalid_argument);
  EXPECT_THROW((void)communicator.all_gather(std::span<const float>(data.data(), 4), std::span<float>(data.data(), 3)),
               std::invalid_argument);
}

}  // namespace
}  // namespace perrin::comm
