#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "trainer/telemetry/loader_watch.hpp"

namespace perrin::trainer {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::uint64_t kBytes = 1'000'000;

DataConfig config(bool warm_up) {
  DataConfig config;
  config.train = "data/set";
  config.warm_up = warm_up;
  config.threads = 3;
  return config;
}

std::string advice(bool warm_up, double stall_seconds, std::uint64_t storage_bytes) {
  return LoaderWatch(config(warm_up)).observe({10, stall_seconds, kBytes, storage_bytes});
}

TEST(LoaderWatch, IsSilentWhileTheLoaderKeepsUp) {
  EXPECT_EQ(advice(false, 0.99, kBytes), "");
  EXPECT_EQ(advice(false, 0, 0), "");
}

TEST(LoaderWatch, NamesTheRemedyThatFits) {
  EXPECT_THAT(advice(false, 3, 0), AllOf(HasSubstr("30 % of the time"), HasSubstr("in the page cache"),
                                         HasSubstr("raise data.threads (3)"), Not(HasSubstr("warm_up"))));
  EXPECT_THAT(advice(false, 3, kBytes), AllOf(HasSubstr("from the storage; set data.warm_up if data/set fits")));
  EXPECT_THAT(advice(true, 3, kBytes),
              AllOf(HasSubstr("larger than the memory"), Not(HasSubstr("set data.warm_up if"))));
}

TEST(LoaderWatch, JudgesNoHiccupAndSaysItOnce) {
  LoaderWatch watch(config(false));
  EXPECT_EQ(watch.observe({0.6, 0.6, kBytes, 0}), "");
  EXPECT_THAT(watch.observe({0.6, 0, kBytes, 0}), HasSubstr("50 % of the time"));
  EXPECT_EQ(watch.observe({10, 9, kBytes, 0}), "");
}

}  // namespace
}  // namespace perrin::trainer
