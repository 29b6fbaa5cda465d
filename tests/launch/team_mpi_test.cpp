#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

#include "data/data_error.hpp"
#include "launch/rank_failure.hpp"
#include "launch/team.hpp"
#include "tests/support/world.hpp"

namespace perrin::launch {
namespace {

using perrin::test::world;
using testing::HasSubstr;

constexpr std::chrono::milliseconds kBlink{2};

/// What all ranks must be told when the last of them fails.
template <class Action>
Failure failure_of(const Action& action) {
  try {
    action();
  } catch (const std::exception&) {
    return describe_failure(std::current_exception());
  }
  ADD_FAILURE() << "rank " << world().rank() << " was told nothing";
  return {};
}

bool is_last() { return world().rank() == world().size() - 1; }

void expect_the_last_rank_is_named(const Failure& failure) {
  EXPECT_EQ(failure.code, ExitCode::data);
  EXPECT_THAT(failure.message, HasSubstr("cat.png: is damaged"));
  const std::string name = "rank " + std::to_string(world().size() - 1) + " (";
  if (world().size() > 1) {
    EXPECT_THAT(failure.message, testing::StartsWith(name));
  }
}

TEST(Team, GathersTextsOfAnyLength) {
  Team team(world());
  const auto text_of = [](int rank) {
    return std::string(static_cast<std::size_t>(3 * rank), static_cast<char>('a' + rank));
  };
  const std::vector<std::string> texts = team.gather(text_of(world().rank()));
  ASSERT_EQ(texts.size(), static_cast<std::size_t>(world().size()));
  for (int rank = 0; rank < world().size(); ++rank) EXPECT_EQ(texts[static_cast<std::size_t>(rank)], text_of(rank));
}

TEST(Team, WhatRankZeroFindsAllKnow) {
  Team team(world());
  int calls = 0;
  EXPECT_EQ(team.from_root([&] { return ++calls, std::string("found"); }), "found");
  EXPECT_EQ(calls, world().rank() == 0 ? 1 : 0);
}

TEST(Team, AFailureOfOneRankIsThatOfAll) {
  Team team(world());
  expect_the_last_rank_is_named(failure_of([&] {
    team.run([] {
      if (is_last()) throw data::DataError("cat.png", "is damaged");
    });
  }));
  team.run([] {});  // and the ranks still agree
}

TEST(Team, RankZeroSpeaksForItself) {
  Team team(world());
  const Failure failure = failure_of([&] { team.run([] { throw data::DataError("cat.png", "is damaged"); }); });
  EXPECT_EQ(failure.message, "cat.png: is damaged");
}

TEST(Team, SharedWorkIsAddedUp) {
  Team team(world());
  const auto mine = static_cast<std::uint64_t>(20 * (1 + world().rank()));
  std::vector<std::uint64_t> shown;
  team.share(
      [&](const Team::Report& report) {
        for (std::uint64_t done = 1; done <= mine; ++done) {
          std::this_thread::sleep_for(kBlink);
          report(done);
        }
      },
      [&](std::uint64_t done) { shown.push_back(done); });
  if (world().rank() != 0) {
    EXPECT_TRUE(shown.empty());
    return;
  }
  const auto ranks = static_cast<std::uint64_t>(world().size());
  ASSERT_FALSE(shown.empty());
  EXPECT_EQ(shown.back(), 10 * ranks * (ranks + 1));
  EXPECT_TRUE(std::is_sorted(shown.begin(), shown.end()));
}

TEST(Team, TheOthersStopSoonWhenOneFails) {
  if (world().size() == 1) GTEST_SKIP() << "needs a second rank, that is stopped";
  Team team(world());
  const auto begun = std::chrono::steady_clock::now();
  std::uint64_t done = 0;
  expect_the_last_rank_is_named(failure_of([&] {
    team.share(
        [&](const Team::Report& report) {
          while (done < 30'000) {  // a minute
            std::this_thread::sleep_for(kBlink);
            report(++done);
            if (is_last() && done == 20) throw data::DataError("cat.png", "is damaged");
          }
        },
        [](std::uint64_t) {});
  }));
  EXPECT_LT(done, 10'000u);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(20));
  team.run([] {});
}

}  // namespace
}  // namespace perrin::launch
