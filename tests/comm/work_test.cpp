#include "comm/work.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include "comm/comm_error.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;

/// Counts what a Work asks of it; wait() finishes it, or throws.
struct Recorder final : PendingOperation {
  bool done() override { return finished; }
  void wait(std::chrono::milliseconds deadline) override {
    ++waits;
    last_deadline = deadline;
    if (late) throw CommError({.operation = "all_reduce", .sequence = 1}, "late");
    finished = true;
  }
  void join(void* stream) override { joined = stream; }
  void abandon() noexcept override { ++abandons; }
  std::chrono::milliseconds default_deadline() const noexcept override { return 1234ms; }

  bool finished = false;
  bool late = false;
  int waits = 0;
  int abandons = 0;
  void* joined = nullptr;
  std::chrono::milliseconds last_deadline{0};
};

TEST(Work, WithoutOperationIsDone) {
  Work work;
  EXPECT_TRUE(work.done());
  work.wait();
  work.join(nullptr);
}

TEST(Work, WaitsForTheDefaultOrTheGivenDeadline) {
  const auto recorder = std::make_shared<Recorder>();
  Work first(recorder);
  EXPECT_FALSE(first.done());
  first.wait();
  EXPECT_EQ(recorder->last_deadline, 1234ms);
  Work second(recorder);
  second.wait(5ms);
  EXPECT_EQ(recorder->last_deadline, 5ms);
  second.wait();
  EXPECT_EQ(recorder->waits, 2) << "a Work that is done waits no more";
}

TEST(Work, ThatGoesUnfinishedWaitsSoThatTheBufferIsFree) {
  const auto recorder = std::make_shared<Recorder>();
  { const Work work(recorder); }
  EXPECT_EQ(recorder->waits, 1);
}

TEST(Work, ThatIsReplacedIsFinishedFirstAndOneThatWasMovedFromIsEmpty) {
  const auto old_operation = std::make_shared<Recorder>();
  const auto new_operation = std::make_shared<Recorder>();
  Work work(old_operation);
  Work source(new_operation);
  work = std::move(source);
  EXPECT_EQ(old_operation->waits, 1);
  EXPECT_EQ(new_operation->waits, 0);
  EXPECT_FALSE(work.done());
  Work last(std::move(work));
  last.wait();
  EXPECT_EQ(new_operation->waits, 1);
}

TEST(Work, IsGivenAMomentAndThenWithdrawnWhenAnExceptionUnwinds) {
  const auto recorder = std::make_shared<Recorder>();
  recorder->late = true;
  try {
    const Work work(recorder);
    throw std::runtime_error("something else went wrong");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(recorder->waits, 1);
  EXPECT_EQ(recorder->last_deadline, 500ms);  // not the communicator's: the program is on its way out
  EXPECT_EQ(recorder->abandons, 1);
}

TEST(Work, ThatWasLateIsWithdrawnWithoutWaitingAgain) {
  const auto recorder = std::make_shared<Recorder>();
  recorder->late = true;
  {
    Work work(recorder);
    EXPECT_THROW(work.wait(), CommError);
  }
  EXPECT_EQ(recorder->waits, 1);
  EXPECT_EQ(recorder->abandons, 1);
}

TEST(Work, JoinedByAStreamIsThatStreamsAffair) {
  const auto recorder = std::make_shared<Recorder>();
  int stream = 0;
  {
    Work work(recorder);
    work.join(&stream);
    EXPECT_TRUE(work.done());
  }
  EXPECT_EQ(recorder->joined, &stream);
  EXPECT_EQ(recorder->waits, 0);
  EXPECT_EQ(recorder->abandons, 0);
}

}  // namespace
}  // namespace perrin::comm
