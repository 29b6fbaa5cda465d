// The clocks of the ranks, made to differ on purpose: here they are one.
#include <gtest/gtest.h>

#include <cstdlib>

#include "comm/clock_offset.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

TEST(ClockOffset, IsThatOfClocksSetApartWithinTheErrorItStates) {
  World& world = perrin::test::world();
  constexpr std::int64_t kApart = 3'000'000'000;  // rank r is r times 3 s behind rank 0
  const ClockOffset offset = measure_clock_offset(world.control(), [&] { return steady_ns() - world.rank() * kApart; });
  EXPECT_LE(std::abs(offset.ahead_ns - world.rank() * kApart), offset.error_ns);
  RecordProperty("error_us", std::to_string(offset.error_ns / 1000));
  EXPECT_LT(offset.error_ns, 20'000'000);  // 0.02 to 0.2 ms as measured; the margin is for a busy machine
}

TEST(ClockOffset, OfRankZeroIsNone) {
  World& world = perrin::test::world();
  const ClockOffset offset = measure_clock_offset(world.control());
  if (world.rank() == 0) EXPECT_EQ(offset.ahead_ns, 0);
  EXPECT_LE(std::abs(offset.ahead_ns), offset.error_ns);  // one host, one clock
}

}  // namespace
}  // namespace perrin::comm
