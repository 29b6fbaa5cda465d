// A simulated wire holds operations back for as long as it says, and costs no processor time.
#include <gtest/gtest.h>
#include <time.h>

#include <chrono>
#include <limits>
#include <stdexcept>
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

TEST(SimulatedWire, TakesLatencyAndBytesOverBandwidth) {
  EXPECT_EQ((SimulatedWire{.latency = 3us, .bytes_per_second = 1e6}).time_of(500), 503us);
  EXPECT_EQ((SimulatedWire{.latency = 3us}).time_of(500), 3us);
  EXPECT_EQ(SimulatedWire{}.time_of(std::numeric_limits<std::uint64_t>::max()), 0ns);
}

TEST(SimulatedWire, CarriesOneOperationAfterTheOtherAndTheSameSums) {
  World& world = perrin::test::world();
  if (world.size() < 2) GTEST_SKIP() << "one rank has no wire";
  CommunicatorOptions options;
  options.wire = {.latency = 50ms, .bytes_per_second = 4e6};
  const auto slow = world.make_communicator(options);
  std::vector<float> a(50'000, 1.0f), b(50'000, 2.0f);  // 200 kB: 50 ms on the wire
  world.control().barrier().wait();
  const auto begun = Clock::now();
  const double cpu_before = cpu_seconds_of_process();
  Work first = slow->all_reduce(std::span<float>(a), ReduceOp::sum);
  Work second = slow->all_reduce(std::span<float>(b), ReduceOp::sum);
  first.wait();
  EXPECT_GE(Clock::now() - begun, 100ms);
  second.wait();
  const auto took = Clock::now() - begun;
  EXPECT_GE(took, 200ms);
  EXPECT_EQ(a.back(), static_cast<float>(world.size()));
  EXPECT_EQ(b.front(), 2.0f * static_cast<float>(world.size()));
  const double share = (cpu_seconds_of_process() - cpu_before) / std::chrono::duration<double>(took).count();
  RecordProperty("cpu_share", std::to_string(share));
  EXPECT_LT(share, 0.3) << "of a core, for all threads of this process together";
  world.control().barrier().wait();
}

TEST(SimulatedWire, CannotBeFasterThanNone) {
  World& world = perrin::test::world();
  if (world.size() < 2) GTEST_SKIP() << "one rank has no wire";
  for (const SimulatedWire& wire : {SimulatedWire{.latency = -1ns}, SimulatedWire{.bytes_per_second = -1.0},
                                    SimulatedWire{.bytes_per_second = std::numeric_limits<double>::quiet_NaN()}}) {
    CommunicatorOptions options;
    options.wire = wire;
    EXPECT_THROW((void)world.make_communicator(options), std::invalid_argument);
  }
}

}  // namespace
}  // namespace perrin::comm
