// Communication goes on while the caller computes, and costs it little.
#include <gtest/gtest.h>
#include <time.h>

#include <chrono>
#include <thread>
#include <vector>

#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

double cpu_seconds_of_process() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

TEST(Progress, AnAllReduceCompletesWhileTheCallerComputes) {
  World& world = perrin::test::world();
  std::vector<float> bucket(4'000'000, 1.0f);
  Work work = world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum);
  // Computes without a call to comm; done() asks nothing of MPI.
  const auto until = Clock::now() + 20s;
  volatile double sink = 0;
  while (!work.done() && Clock::now() < until) {
    for (int i = 0; i < 100'000; ++i) sink = sink + 1e-3;
  }
  EXPECT_TRUE(work.done());
  work.wait(0ms);
  EXPECT_EQ(bucket.front(), static_cast<float>(world.size()));
  EXPECT_EQ(bucket.back(), static_cast<float>(world.size()));
  world.control().barrier().wait();
}

TEST(Progress, SeveralBucketsCompleteWhileTheCallerSleeps) {
  World& world = perrin::test::world();
  std::vector<std::vector<float>> buckets(5, std::vector<float>(100'000, 2.0f));
  std::vector<Work> works;
  for (auto& bucket : buckets) works.push_back(world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum));
  const auto until = Clock::now() + 20s;
  while (!works.back().done() && Clock::now() < until) std::this_thread::sleep_for(1ms);
  for (Work& work : works) EXPECT_TRUE(work.done());
  for (const auto& bucket : buckets) EXPECT_EQ(bucket[77], 2.0f * static_cast<float>(world.size()));
}

TEST(Progress, WaitingInTheBackgroundForALatePeerUsesLittleOfACore) {
  World& world = perrin::test::world();
  if (world.size() < 2) GTEST_SKIP() << "one rank has no late peer";
  constexpr auto kLate = 1s;
  world.control().barrier().wait();
  std::vector<float> bucket(1'000'000, 1.0f);
  Work work;
  if (world.rank() != 0) work = world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum);
  const double before = cpu_seconds_of_process();
  std::this_thread::sleep_for(kLate);
  const double share = (cpu_seconds_of_process() - before) / std::chrono::duration<double>(kLate).count();
  if (world.rank() == 0) work = world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum);
  work.wait();
  RecordProperty("cpu_share", std::to_string(share));
  // 0.01 to 0.015 as measured; a poller that spins would take 1. The margin is for machines that are busy otherwise.
  EXPECT_LT(share, 0.2) << "of a core, for all threads of this process together";
}

}  // namespace
}  // namespace perrin::comm
