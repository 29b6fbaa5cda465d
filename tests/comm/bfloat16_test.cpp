#include "comm/bfloat16.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace perrin::comm {
namespace {

TEST(BFloat16, EveryBitPatternSurvivesTheWayThroughFloat) {
  for (std::uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const float value = float_from_bfloat16(static_cast<std::uint16_t>(bits));
    const std::uint16_t back = bfloat16_from_float(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(float_from_bfloat16(back))) << bits;
    } else {
      EXPECT_EQ(back, bits);
    }
  }
}

TEST(BFloat16, RoundsToNearestAndTiesToEven) {
  // 8 bits of significand: between 256 and 512 the step is 2.
  EXPECT_EQ(float_from_bfloat16(bfloat16_from_float(256.9f)), 256.0f);
  EXPECT_EQ(float_from_bfloat16(bfloat16_from_float(257.0f)), 256.0f);
  EXPECT_EQ(float_from_bfloat16(bfloat16_from_float(257.1f)), 258.0f);
  EXPECT_EQ(float_from_bfloat16(bfloat16_from_float(259.0f)), 260.0f);
  EXPECT_EQ(float_from_bfloat16(bfloat16_from_float(-259.0f)), -260.0f);
  EXPECT_TRUE(std::isinf(float_from_bfloat16(bfloat16_from_float(std::numeric_limits<float>::max()))));
}

}  // namespace
}  // namespace perrin::comm
