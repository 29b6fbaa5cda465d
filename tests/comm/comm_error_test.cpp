#include "comm/comm_error.hpp"

#include <gmock/gmock.h>

namespace perrin::comm {
namespace {

TEST(CommError, NamesOperationNumberBytesAndRank) {
  const CommError error({.operation = "all_reduce", .sequence = 7, .bytes = 4096, .rank = 3}, "waiting for rank 1",
                        {1});
  EXPECT_STREQ(error.what(), "rank 3: all_reduce #7 (4096 bytes): waiting for rank 1");
  EXPECT_EQ(error.operation(), "all_reduce");
  EXPECT_EQ(error.sequence(), 7u);
  EXPECT_EQ(error.bytes(), 4096u);
  EXPECT_EQ(error.rank(), 3);
  EXPECT_THAT(error.late_ranks(), testing::ElementsAre(1));
}

TEST(CommError, OutsideACollectiveNamesTheRankAlone) {
  const CommError error({.operation = "start", .rank = 2}, "no GPU");
  EXPECT_STREQ(error.what(), "rank 2: start: no GPU");
}

}  // namespace
}  // namespace perrin::comm
