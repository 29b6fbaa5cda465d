// A communicator that compares what the ranks submit: right operations pass, every kind of difference is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "comm/checked_communicator.hpp"
#include "comm/comm_error.hpp"
#include "tests/comm/backend.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

using testing::Each;
using testing::HasSubstr;

class Checked : public testing::Test {
 protected:
  Checked() : communicator_(test::make_communicator({}), perrin::test::world().make_communicator({})) {}

  /// @return the error, which every rank must see
  std::string disagreement(const std::function<Work(Communicator&, bool last)>& submit) {
    try {
      submit(communicator_, communicator_.rank() == communicator_.size() - 1).wait();
    } catch (const CommError& error) {
      EXPECT_EQ(error.sequence(), 1u);
      return error.what();
    }
    return "no error";
  }

  CheckedCommunicator communicator_;
};

TEST_F(Checked, CarriesOutWhatTheRanksAgreeOn) {
  const auto memory = test::allocate(5 * sizeof(float));
  const std::span<float> data(reinterpret_cast<float*>(memory.get()), 5);
  std::fill(data.begin(), data.end(), 2.0f);
  communicator_.all_reduce(data, ReduceOp::sum).wait();
  EXPECT_THAT(data, Each(2.0f * static_cast<float>(communicator_.size())));
  communicator_.broadcast(data, 0).wait();
  communicator_.barrier().wait();
  EXPECT_FALSE(communicator_.failed());
}

TEST_F(Checked, NamesEveryKindOfDifferenceBeforeAnythingIsUnderWay) {
  if (communicator_.size() < 2) GTEST_SKIP() << "one rank agrees with itself";
  const auto memory = test::allocate(800);
  void* data = memory.get();
  const int last = communicator_.size() - 1;
  const auto named = [&](const std::string& first, const std::string& other) {
    return HasSubstr("rank 0 would submit " + first + ", rank " + std::to_string(last) + " " + other);
  };
  EXPECT_THAT(disagreement([&](Communicator& c, bool odd) {
                return c.all_reduce(data, odd ? 99 : 100, DataType::float32, ReduceOp::sum);
              }),
              named("all_reduce of 400 bytes float32 (sum)", "all_reduce of 396 bytes float32 (sum)"));
}

TEST_F(Checked, NamesAnotherType) {
  if (communicator_.size() < 2) GTEST_SKIP() << "one rank agrees with itself";
  const auto memory = test::allocate(800);
  EXPECT_THAT(disagreement([&](Communicator& c, bool odd) {
                return c.all_reduce(memory.get(), odd ? 50 : 100, odd ? DataType::float64 : DataType::float32,
                                    ReduceOp::sum);
              }),
              HasSubstr("all_reduce of 400 bytes float64 (sum)"));
}

TEST_F(Checked, NamesAnotherReduction) {
  if (communicator_.size() < 2) GTEST_SKIP() << "one rank agrees with itself";
  const auto memory = test::allocate(800);
  EXPECT_THAT(disagreement([&](Communicator& c, bool odd) {
                return c.all_reduce(memory.get(), 100, DataType::float32, odd ? ReduceOp::max : ReduceOp::sum);
              }),
              HasSubstr("(max)"));
}

TEST_F(Checked, NamesAnotherRootAndAnotherOrder) {
  if (communicator_.size() < 2) GTEST_SKIP() << "one rank agrees with itself";
  const auto memory = test::allocate(800);
  EXPECT_THAT(disagreement([&](Communicator& c, bool odd) {
                return c.broadcast(memory.get(), 100, DataType::float32, odd ? 1 : 0);
              }),
              HasSubstr("broadcast of 400 bytes float32 from rank 1"));
  CheckedCommunicator other(test::make_communicator({}), perrin::test::world().make_communicator({}));
  try {
    Communicator& submits = other;
    (other.rank() == 0 ? submits.barrier() : submits.broadcast(memory.get(), 1, DataType::uint8, 0)).wait();
    ADD_FAILURE() << "a barrier met a broadcast";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), HasSubstr("rank 0 would submit barrier, rank 1 broadcast of 1 bytes uint8 from rank 0"));
  }
}

}  // namespace
}  // namespace perrin::comm
