// A peer that does not come is found within the deadline, named, and does not keep the caller's memory.
#include <gmock/gmock.h>

#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "comm/comm_error.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using testing::AllOf;
using testing::HasSubstr;

class Deadline : public testing::Test {
 protected:
  void SetUp() override {
    if (world().size() < 2) GTEST_SKIP() << "one rank has no peer that could be late";
    communicator_ = world().make_communicator({.deadline = 300ms});
  }
  void TearDown() override { world().control().barrier().wait(); }

  static World& world() { return perrin::test::world(); }
  Communicator& comm() { return *communicator_; }
  void close_communicator() { communicator_.reset(); }
  static std::vector<int> ranks_other_than_0() {
    std::vector<int> ranks;
    for (int r = 1; r < world().size(); ++r) ranks.push_back(r);
    return ranks;
  }

 private:
  std::unique_ptr<Communicator> communicator_;
};

TEST_F(Deadline, NamesOperationNumberBytesRankAndWhoIsLate) {
  comm().barrier().wait(5s);
  if (world().rank() != 0) return;
  std::vector<float> data(100);
  const auto start = Clock::now();
  try {
    comm().all_reduce(std::span<float>(data), ReduceOp::sum).wait();
    FAIL() << "no other rank has joined";
  } catch (const CommError& error) {
    EXPECT_EQ(error.operation(), "all_reduce");
    EXPECT_EQ(error.sequence(), 2u);
    EXPECT_EQ(error.bytes(), 400u);
    EXPECT_EQ(error.rank(), 0);
    EXPECT_EQ(error.late_ranks(), ranks_other_than_0());
    EXPECT_THAT(error.what(), AllOf(HasSubstr("rank 0: all_reduce #2 (400 bytes)"), HasSubstr("300 ms"),
                                    HasSubstr("waiting for rank 1")));
  }
  EXPECT_LT(Clock::now() - start, 3s);
}

TEST_F(Deadline, OfAQueuedOperationNamesTheOneBeforeIt) {
  if (world().rank() != 0) return;
  std::vector<float> data(100);
  Work first = comm().all_reduce(std::span<float>(data), ReduceOp::sum);
  Work second = comm().barrier();
  try {
    second.wait(100ms);
    FAIL() << "no other rank has joined";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("barrier #2"), HasSubstr("queued behind all_reduce #1"),
                                    HasSubstr("waiting for rank 1")));
  }
}

TEST_F(Deadline, ThatHasPassedDoesNotForbidToWaitAgain) {
  if (world().rank() == 1) std::this_thread::sleep_for(600ms);
  std::vector<std::int64_t> data{1};
  Work work = comm().all_reduce(std::span<std::int64_t>(data), ReduceOp::sum);
  if (world().rank() == 0) {
    EXPECT_THROW(work.wait(50ms), CommError);
  }
  work.wait(10s);
  EXPECT_EQ(data[0], world().size());
}

TEST_F(Deadline, WithdrawnOperationFailsTheCommunicatorAndLeavesTheBufferAlone) {
  // Every rank waits for messages that no rank sends: each all_gather misses a peer. Short ones, which MPI has copied:
  // longer sends of a communicator that fails end MPI in this process (comm_faults).
  std::vector<float> output(static_cast<std::size_t>(world().size()) * 500, -1.0f);
  if (world().rank() == 0) {
    const std::vector<float> input(500, 1.0f);
    try {
      const Work work = comm().all_gather(std::span<const float>(input), std::span<float>(output));
      throw std::runtime_error("the caller's own trouble");
    } catch (const std::runtime_error&) {
    }
    EXPECT_TRUE(comm().failed());
    EXPECT_THROW((void)comm().barrier(), CommError);
    output.assign(output.size(), -2.0f);
    std::this_thread::sleep_for(50ms);
    EXPECT_THAT(output, testing::Each(-2.0f));
  }
}

TEST_F(Deadline, DroppedWorkIsFinishedBeforeItsBufferGoes) {
  for (int i = 0; i < 20; ++i) {
    std::vector<float> data(10'000, 1.0f);
    (void)comm().all_reduce(std::span<float>(data), ReduceOp::sum);  // the temporary Work waits in its destructor
    EXPECT_THAT(data, testing::Each(static_cast<float>(world().size())));
  }
}

TEST_F(Deadline, CommunicatorThatGoesFirstFailsWhatIsUnfinished) {
  if (world().rank() != 0) return;
  std::vector<float> data(10);
  Work work = comm().all_reduce(std::span<float>(data), ReduceOp::sum);
  close_communicator();
  EXPECT_TRUE(work.done());
  EXPECT_THROW(work.wait(), CommError);
}

}  // namespace
}  // namespace perrin::comm
