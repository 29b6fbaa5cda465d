#include "trainer/thread_team.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace perrin::trainer {
namespace {

using namespace std::chrono_literals;

TEST(ThreadTeam, GivesEachMemberItsPartsInOrder) {
  for (const std::size_t members : {1, 2, 3}) {
    ThreadTeam team(members, static_cast<int>(members));
    for (const std::size_t parts : {0, 1, 3, 7}) {
      std::vector<std::vector<std::size_t>> parts_of(members);
      std::vector<std::thread::id> threads(members);
      team.run(parts, [&](std::size_t part) {
        parts_of[part % members].push_back(part);
        threads[part % members] = std::this_thread::get_id();
      });
      for (std::size_t part = 0; part < parts; ++part) EXPECT_EQ(parts_of[part % members].at(part / members), part);
      const std::size_t working = std::min(parts, members);
      EXPECT_EQ(std::set(threads.begin(), threads.begin() + static_cast<std::ptrdiff_t>(working)).size(), working);
    }
  }
}

TEST(ThreadTeam, WorksOnTwoPartsAtTheSameTime) {
  ThreadTeam team(2, 2);
  std::atomic<int> present{0};
  std::atomic<int> met{0};
  team.run(2, [&](std::size_t) {
    ++present;
    const auto until = std::chrono::steady_clock::now() + 20s;
    while (present < 2 && std::chrono::steady_clock::now() < until) std::this_thread::sleep_for(1ms);
    met += present == 2 ? 1 : 0;
  });
  EXPECT_EQ(met, 2);
}

TEST(ThreadTeam, GivesItsMembersThreadsOfTheirOwnAndTheCallersState) {
  at::set_num_threads(2);
  ThreadTeam team(2, 5);
  EXPECT_EQ(at::get_num_threads(), 2);
  std::thread([] { EXPECT_EQ(at::get_num_threads(), 2) << "of threads to come"; }).join();
  for (const bool enabled : {false, true}) {
    const at::AutoGradMode mode(enabled);
    std::vector<int> threads(2), gradients(2, -1);
    team.run(2, [&](std::size_t part) {
      threads[part] = at::get_num_threads();
      gradients[part] = at::GradMode::is_enabled() ? 1 : 0;
    });
    EXPECT_EQ(threads, (std::vector<int>{3, 2}));
    EXPECT_EQ(gradients, (std::vector<int>(2, enabled ? 1 : 0)));
  }
}

TEST(ThreadTeam, LeavesASinglePartToTheCaller) {
  at::set_num_threads(2);
  ThreadTeam team(2, 2);
  team.run(1, [caller = std::this_thread::get_id()](std::size_t) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_EQ(at::get_num_threads(), 2);
  });
}

TEST(ThreadTeam, ThrowsWhatTheFirstMemberThrewOnceAllHaveEnded) {
  ThreadTeam team(2, 2);
  for (int round = 0; round < 3; ++round) {
    std::atomic<int> ended{0};
    try {
      team.run(4, [&](std::size_t part) {
        if (part == 0) std::this_thread::sleep_for(5ms);
        ++ended;
        if (part < 2) throw std::runtime_error("part " + std::to_string(part));
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "part 0");
    }
    EXPECT_EQ(ended, 2) << "later parts of members that failed are left out";
  }
  EXPECT_THROW(ThreadTeam(0, 1), std::invalid_argument);
  EXPECT_THROW(ThreadTeam(1, 0), std::invalid_argument);
  EXPECT_THROW(ThreadTeam(3, 2), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
