// Faults of NCCL on one rank: all ranks are told within the deadline, by operation, number and rank, and nothing stays.
#include <gmock/gmock.h>

#include <array>
#include <chrono>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>

#include "comm/comm_error.hpp"
#include "comm/nccl_communicator.hpp"
#include "tests/comm/elements.hpp"
#include "tests/comm/fault_runs.hpp"
#include "tests/comm/host_gpu/host_gpu.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;
using host_gpu::Fault;
using test::Elements;
using testing::AllOf;
using testing::HasSubstr;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kCount = 1000;
constexpr std::chrono::milliseconds kDeadline = 500ms;
// Room for the poll of a busy machine, far below a hang.
constexpr Clock::duration kLimit = kDeadline + 4s;

class NcclFaults : public testing::Test {
 protected:
  void SetUp() override {
    world().control().barrier().wait();
    before_ = host_gpu::alive();
  }
  void TearDown() override {
    host_gpu::inject({});
    const host_gpu::Alive after = host_gpu::alive();
    EXPECT_EQ(after, before_) << "left: " << host_gpu::describe(after) << "; before: " << host_gpu::describe(before_);
    world().control().barrier().wait();
  }

  static World& world() { return perrin::test::world(); }
  static int faulty_rank() { return world().size() - 1; }
  static bool is_faulty() { return world().rank() == faulty_rank(); }

  static std::unique_ptr<Communicator> make_with(Fault fault, int after_operations = 0,
                                                 std::chrono::milliseconds deadline = kDeadline) {
    host_gpu::inject({fault, faulty_rank(), after_operations});
    return test::make_communicator({.deadline = deadline});
  }

  /// What `call` throws; the test fails if it does not, or takes too long.
  static CommError error_of(const std::function<void()>& call) {
    const auto start = Clock::now();
    try {
      call();
    } catch (const CommError& error) {
      EXPECT_LT(Clock::now() - start, kLimit);
      EXPECT_EQ(error.rank(), world().rank());
      return error;
    }
    ADD_FAILURE() << "no error";
    return CommError({}, "no error");
  }

 private:
  host_gpu::Alive before_;
};

TEST_F(NcclFaults, PeerThatNeverJoinsIsToldAtTheStart) {
  const CommError error = error_of([] { (void)make_with(Fault::never_joins); });
  EXPECT_EQ(error.operation(), "start");
  EXPECT_THAT(error.what(), AllOf(HasSubstr("still in progress after 500 ms"), HasSubstr("a rank is missing")));
}

TEST_F(NcclFaults, InitThatFailsOnOneRankEndsAll) {
  const CommError error = error_of([] { (void)make_with(Fault::init_fails); });
  EXPECT_EQ(error.operation(), "start");
  EXPECT_THAT(error.what(),
              HasSubstr(is_faulty() ? "unhandled system error (injected: no network interface)" : "a rank is missing"));
}

TEST_F(NcclFaults, CommunicatorComesUpAfterOneThatDidNot) {
  (void)error_of([] { (void)make_with(Fault::never_joins); });
  EXPECT_EQ(make_with(Fault::none, 0, 30s)->all_reduce_value(std::int64_t{1}, ReduceOp::sum), world().size());
}

TEST_F(NcclFaults, CollectiveThatNeverCompletesIsNamedWithItsNumber) {
  const auto communicator = make_with(Fault::never_completes, 2);
  Elements data(DataType::float32, kCount);
  for (int i = 0; i < 2; ++i) communicator->all_reduce(data.data(), kCount, DataType::float32, ReduceOp::sum).wait(30s);
  const CommError error =
      error_of([&] { communicator->all_reduce(data.data(), kCount, DataType::float32, ReduceOp::sum).wait(); });
  EXPECT_EQ(error.operation(), "all_reduce");
  EXPECT_EQ(error.sequence(), 3u);
  EXPECT_EQ(error.bytes(), 4 * kCount);
  EXPECT_THAT(error.what(), HasSubstr("not done within 500 ms"));
  EXPECT_TRUE(communicator->failed());
  EXPECT_THAT(error_of([&] { (void)communicator->barrier(); }).what(), HasSubstr("failed before"));
}

TEST_F(NcclFaults, EveryCollectiveThatNeverCompletesIsNamed) {
  Elements large(DataType::float32, kCount * static_cast<std::size_t>(world().size()));
  Elements other(DataType::float32, large.count());
  using Call = std::function<Work(Communicator&)>;
  const std::vector<std::pair<std::string, Call>> calls{
      {"reduce_scatter",
       [&](Communicator& c) {
         return c.reduce_scatter(large.data(), other.data(), kCount, DataType::float32, ReduceOp::sum);
       }},
      {"all_gather",
       [&](Communicator& c) { return c.all_gather(other.data(), large.data(), kCount, DataType::float32); }},
      {"all_to_all",
       [&](Communicator& c) { return c.all_to_all(large.data(), other.data(), kCount, DataType::float32); }},
      {"broadcast",  // the root alone could finish: its data are on their way
       [&](Communicator& c) { return c.broadcast(large.data(), kCount, DataType::float32, faulty_rank()); }},
      {"barrier", [&](Communicator& c) { return c.barrier(); }},
  };
  for (const auto& [name, call] : calls) {
    const auto communicator = make_with(Fault::never_completes);
    const CommError error = error_of([&] { call(*communicator).wait(); });
    EXPECT_EQ(error.operation(), name);
    EXPECT_EQ(error.sequence(), 1u);
  }
}

TEST_F(NcclFaults, AsynchronousErrorIsToldAtOnceOnItsRankAndByDeadlineOnTheOthers) {
  const auto communicator = make_with(Fault::asynchronous_error, 1);
  communicator->barrier().wait(30s);
  const auto start = Clock::now();
  const CommError error = error_of([&] {
    Work work = communicator->barrier();
    work.wait(is_faulty() ? 60s : kDeadline);
  });
  EXPECT_EQ(error.operation(), "barrier");
  EXPECT_EQ(error.sequence(), 2u);
  if (is_faulty()) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("remote process exited"), HasSubstr("injected: connection lost")));
    EXPECT_TRUE(communicator->failed());
    EXPECT_LT(Clock::now() - start, 10s) << "an error waits for no deadline";
  } else {
    EXPECT_THAT(error.what(), HasSubstr("not done within 500 ms"));
  }
}

TEST_F(NcclFaults, AsynchronousErrorIsFoundByDone) {
  const auto communicator = make_with(Fault::asynchronous_error);
  const CommError error = error_of([&] {
    Work work = communicator->barrier();
    const auto until = Clock::now() + (is_faulty() ? 4s : 0s);
    while (!work.done() && Clock::now() < until) std::this_thread::sleep_for(1ms);
    EXPECT_EQ(communicator->failed(), is_faulty());
    work.wait();
  });
  EXPECT_THAT(error.what(), HasSubstr(is_faulty() ? "injected: connection lost" : "not done within"));
}

TEST_F(NcclFaults, AsynchronousErrorFailsJoinAndTheNextOperation) {
  const auto communicator = make_with(Fault::asynchronous_error);
  const CommError error = error_of([&] {
    Work work = communicator->barrier();
    std::this_thread::sleep_for(200ms);  // for the operation to reach its turn
    is_faulty() ? work.join(nullptr) : work.wait();
  });
  EXPECT_THAT(error.what(), HasSubstr(is_faulty() ? "injected: connection lost" : "not done within"));
  EXPECT_THAT(error_of([&] { (void)communicator->barrier(); }).what(), HasSubstr("failed before"));
}

TEST_F(NcclFaults, WithdrawnOperationLeavesTheBufferAlone) {
  const auto communicator = make_with(Fault::never_completes);
  Elements data(DataType::float32, kCount);
  try {
    const Work work = communicator->all_reduce(data.data(), kCount, DataType::float32, ReduceOp::sum);
    throw std::runtime_error("the caller's own trouble");
  } catch (const std::runtime_error&) {
  }
  EXPECT_TRUE(communicator->failed());
  for (std::size_t i = 0; i < kCount; ++i) data.set(i, -2);
  std::this_thread::sleep_for(50ms);
  EXPECT_THAT(data.values(), testing::Each(-2));
}

TEST_F(NcclFaults, OperationsBehindTheFaultyOneFailToo) {
  const auto communicator = make_with(Fault::never_completes, 1);
  Work first = communicator->barrier();
  Work second = communicator->barrier();
  Work third = communicator->barrier();
  first.wait(30s);
  EXPECT_EQ(error_of([&] { third.wait(); }).sequence(), 3u);
  EXPECT_EQ(error_of([&] { second.wait(); }).sequence(), 2u);
}

TEST_F(NcclFaults, LateOperationMayBeWaitedForAgain) {
  const auto communicator = test::make_communicator({.deadline = 30s});
  if (is_faulty()) std::this_thread::sleep_for(400ms);
  Work work = communicator->barrier();
  if (!is_faulty()) {
    EXPECT_THROW(work.wait(20ms), CommError);
  }
  work.wait();
  EXPECT_FALSE(communicator->failed());
}

TEST_F(NcclFaults, AtRandomMomentsNeverHang) {
  std::mt19937 random(7);  // the same draws on all ranks
  for (int run = 0; run < test::fault_runs(25); ++run) {
    const Fault fault = std::array{Fault::never_joins, Fault::init_fails, Fault::never_completes,
                                   Fault::asynchronous_error}[random() % 4];
    const host_gpu::FaultPlan plan{fault, static_cast<int>(random() % static_cast<unsigned>(world().size())),
                                   static_cast<int>(random() % 4)};
    host_gpu::inject(plan);
    const CommError error = error_of([&] {
      const auto communicator = test::make_communicator({.deadline = 200ms});
      Elements data(DataType::bfloat16, kCount);
      for (int i = 0; i <= plan.after_operations; ++i)
        communicator->all_reduce(data.data(), kCount, DataType::bfloat16, ReduceOp::max).wait();
    });
    const bool at_start = fault == Fault::never_joins || fault == Fault::init_fails;
    EXPECT_EQ(error.operation(), at_start ? "start" : "all_reduce") << "run " << run;
    EXPECT_EQ(error.sequence(), at_start ? 0u : static_cast<unsigned>(plan.after_operations) + 1) << "run " << run;
    world().control().barrier().wait();
  }
}

}  // namespace
}  // namespace perrin::comm
