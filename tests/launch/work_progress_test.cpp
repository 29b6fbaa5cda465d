#include "launch/work_progress.hpp"

#include <gtest/gtest.h>

namespace perrin::launch {
namespace {

TEST(Pace, IsThatOfTheLastHalfMinute) {
  Pace pace;
  EXPECT_FALSE(pace.rate());
  pace.note(0, 0);
  EXPECT_FALSE(pace.rate());
  pace.note(1, 100'000);  // an earlier run's shards, only looked at
  EXPECT_DOUBLE_EQ(*pace.rate(), 100'000);
  for (int second = 2; second <= 40; ++second) pace.note(second, 100'000 + static_cast<std::uint64_t>(second - 1) * 50);
  EXPECT_DOUBLE_EQ(*pace.rate(), 50);
}

TEST(Pace, SaysNothingOfWorkThatStands) {
  Pace pace;
  pace.note(0, 7);
  pace.note(5, 7);
  EXPECT_FALSE(pace.rate());
}

TEST(WorkProgress, SaysRateAndTimeLeft) {
  EXPECT_EQ(format_work(1200, 60'000, 4000.0, {"images"}), "1200/60000 images (2 %)  4000.0 images/s  0:15 left");
  EXPECT_EQ(format_work(0, 60'000, std::nullopt, {"images"}), "0/60000 images (0 %)");
  EXPECT_EQ(format_work(60'000, 60'000, 4000.0, {"images"}), "60000/60000 images (100 %)  4000.0 images/s");
  EXPECT_EQ(format_work(250'000'000, 8'000'000'000, 2e6, {"MB", 1e6}), "250/8000 MB (3 %)  2.0 MB/s  1:04:35 left");
}

}  // namespace
}  // namespace perrin::launch
