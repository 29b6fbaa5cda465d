#include "comm/exit_timer.hpp"

#include <gtest/gtest.h>

#include <thread>

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;

TEST(ExitTimerDeathTest, EndsAProcessThatHangsWithItsCodeAndReason) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        const ExitTimer timer(50ms, 75, "MPI_Finalize");
        std::this_thread::sleep_for(20s);
      },
      testing::ExitedWithCode(75), "MPI_Finalize took longer than 50 ms; this process leaves with code 75");
}

TEST(ExitTimer, LeavesAProcessAloneThatIsInTime) {
  const auto start = std::chrono::steady_clock::now();
  { const ExitTimer timer(10s, 75, "nothing"); }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

}  // namespace
}  // namespace perrin::comm
