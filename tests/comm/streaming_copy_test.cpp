#include "comm/streaming_copy.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace perrin::comm {
namespace {

TEST(StreamingCopy, CopiesExactlyTheseBytesAtEveryAlignment) {
  std::vector<std::byte> source(600);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::byte>(i * 7 % 251 + 1);
  for (const std::size_t bytes : {0, 1, 15, 63, 64, 65, 127, 128, 129, 500}) {
    for (std::size_t to = 0; to < 66; ++to) {
      const std::size_t from = to * 5 % 64;
      std::vector<std::byte> destination(700);
      streaming_copy(&destination[to], &source[from], bytes);
      for (std::size_t i = 0; i < destination.size(); ++i) {
        const bool inside = i >= to && i < to + bytes;
        ASSERT_EQ(destination[i], inside ? source[from + i - to] : std::byte{0}) << bytes << " at " << to << ", " << i;
      }
    }
  }
}

}  // namespace
}  // namespace perrin::comm
