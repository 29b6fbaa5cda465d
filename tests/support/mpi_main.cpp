// main() of tests that run under mpirun: one World for all tests; a failure on any rank fails that test on all; rank 0
// reports.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <span>
#include <vector>

#include "tests/support/world.hpp"

namespace perrin::test {
namespace {

// Longer than the deadlines that tests themselves use: a rank that is still in its test then is stuck.
constexpr std::chrono::seconds kRankDeadline{90};

comm::World* g_world = nullptr;  // GoogleTest offers its cases no other way to reach main()'s objects

/// After each test the ranks tell each other whether it failed.
class RankAgreement final : public testing::EmptyTestEventListener {
 public:
  explicit RankAgreement(comm::World& world)
      : world_(world), ranks_(world.make_communicator({.deadline = kRankDeadline})) {}

  void OnTestEnd(const testing::TestInfo& info) override {
    const std::int64_t own = info.result()->Failed() ? 1 : 0;
    std::vector<std::int64_t> all(static_cast<std::size_t>(world_.size()));
    try {
      ranks_->all_gather(std::span<const std::int64_t>(&own, 1), std::span<std::int64_t>(all)).wait();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s.%s: the ranks do not come together after the test: %s\n", info.test_suite_name(),
                   info.name(), error.what());
      world_.abort(1);
    }
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      if (all[rank] != 0 && own == 0) ADD_FAILURE() << "failed on rank " << rank;
    }
  }

 private:
  comm::World& world_;
  std::unique_ptr<comm::Communicator> ranks_;
};

/// What ranks other than 0 print: their failures.
class FailurePrinter final : public testing::EmptyTestEventListener {
 public:
  explicit FailurePrinter(int rank) : rank_(rank) {}

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "[rank %d] %s:%d: %s\n", rank_, result.file_name() != nullptr ? result.file_name() : "?",
                 result.line_number(), result.message());
  }

 private:
  int rank_;
};

int run(comm::World& world) {
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (!world.is_root()) {
    delete listeners.Release(listeners.default_result_printer());
    delete listeners.Release(listeners.default_xml_generator());
    listeners.Append(new FailurePrinter(world.rank()));
  }
  auto* agreement = new RankAgreement(world);
  listeners.Append(agreement);
  const int result = RUN_ALL_TESTS();
  delete listeners.Release(agreement);  // its communicator goes before the World
  return result;
}

}  // namespace

comm::World& world() { return *g_world; }

}  // namespace perrin::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  try {
    perrin::comm::World world = perrin::comm::World::from_environment();
    perrin::test::g_world = &world;
    try {
      return perrin::test::run(world);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "error: %s\n", error.what());
      world.abort(1);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
