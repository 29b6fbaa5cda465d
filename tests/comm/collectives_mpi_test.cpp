// Every collective, type and size against a serial reference, whole and cut into pieces, aligned and not.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "tests/comm/backend.hpp"
#include "tests/comm/elements.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

using test::element_of;
using test::Elements;

struct Memory {
  std::size_t piece_bytes;
  std::size_t shift;
  bool shared = true;  // by the ranks of a node
};
constexpr Memory kWhole{std::size_t{4} << 20, 0};
constexpr Memory kPiecesUnaligned{1000, 1};
constexpr Memory kWholeMessages{std::size_t{4} << 20, 0, false};
constexpr Memory kPiecesOfMessagesUnaligned{1000, 1, false};

class Collectives : public testing::TestWithParam<std::tuple<DataType, std::size_t, Memory>> {
 protected:
  Collectives()
      : communicator_(
            test::make_communicator({.piece_bytes = memory().piece_bytes, .share_node_memory = memory().shared})) {}

  static DataType type() { return std::get<0>(GetParam()); }
  static std::size_t count() { return std::get<1>(GetParam()); }
  static Memory memory() { return std::get<2>(GetParam()); }

  Communicator& comm() { return *communicator_; }
  int rank() { return comm().rank(); }
  int ranks() { return comm().size(); }
  std::size_t parts() { return static_cast<std::size_t>(ranks()); }

  Elements empty(std::size_t count) { return Elements(type(), count, memory().shift); }
  /// What this rank holds, `count` elements from index `first`.
  Elements filled(std::size_t count) {
    Elements elements = empty(count);
    for (std::size_t i = 0; i < count; ++i) elements.set(i, element_of(rank(), i));
    return elements;
  }
  std::int64_t reduced(std::size_t i, ReduceOp op) {
    std::int64_t result = element_of(0, i);
    for (int r = 1; r < ranks(); ++r) {
      const std::int64_t value = element_of(r, i);
      result = op == ReduceOp::sum   ? result + value
               : op == ReduceOp::max ? std::max(result, value)
                                     : std::min(result, value);
    }
    return result;
  }

 private:
  std::unique_ptr<Communicator> communicator_;
};

TEST_P(Collectives, AllReduceGivesEveryRankTheReduction) {
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
    Elements data = filled(count());
    comm().all_reduce(data.data(), count(), type(), op).wait();
    std::vector<std::int64_t> expected(count());
    for (std::size_t i = 0; i < count(); ++i) expected[i] = reduced(i, op);
    EXPECT_EQ(data.values(), expected) << name_of(op);
  }
}

TEST_P(Collectives, ReduceScatterGivesEveryRankItsPartOfTheReduction) {
  const std::size_t first = static_cast<std::size_t>(rank()) * count();
  std::vector<std::int64_t> expected(count());
  for (std::size_t i = 0; i < count(); ++i) expected[i] = reduced(first + i, ReduceOp::sum);

  Elements input = filled(parts() * count());
  Elements output = empty(count());
  comm().reduce_scatter(input.data(), output.data(), count(), type(), ReduceOp::sum).wait();
  EXPECT_EQ(output.values(), expected);

  std::byte* own_part = input.data() + first * size_of(type());
  comm().reduce_scatter(input.data(), own_part, count(), type(), ReduceOp::sum).wait();
  for (std::size_t i = 0; i < count(); ++i) ASSERT_EQ(input.get(first + i), expected[i]) << "in place";
}

TEST_P(Collectives, AllGatherGivesEveryRankAllPartsInOrder) {
  std::vector<std::int64_t> expected;
  for (int r = 0; r < ranks(); ++r) {
    for (std::size_t i = 0; i < count(); ++i) expected.push_back(element_of(r, i));
  }
  Elements input = filled(count());
  Elements output = empty(parts() * count());
  comm().all_gather(input.data(), output.data(), count(), type()).wait();
  EXPECT_EQ(output.values(), expected);

  const std::size_t first = static_cast<std::size_t>(rank()) * count();
  Elements in_place = empty(parts() * count());
  for (std::size_t i = 0; i < count(); ++i) in_place.set(first + i, element_of(rank(), i));
  comm().all_gather(in_place.data() + first * size_of(type()), in_place.data(), count(), type()).wait();
  EXPECT_EQ(in_place.values(), expected) << "in place";
}

TEST_P(Collectives, AllToAllTransposesThePartsOfAllRanks) {
  std::vector<std::int64_t> expected;
  for (int r = 0; r < ranks(); ++r) {
    for (std::size_t i = 0; i < count(); ++i)
      expected.push_back(element_of(r, static_cast<std::size_t>(rank()) * count() + i));
  }
  Elements input = filled(parts() * count());
  Elements output = empty(parts() * count());
  comm().all_to_all(input.data(), output.data(), count(), type()).wait();
  EXPECT_EQ(output.values(), expected);
}

TEST_P(Collectives, BroadcastGivesEveryRankTheRootsData) {
  for (const int root : {0, ranks() - 1}) {
    Elements data = filled(count());
    comm().broadcast(data.data(), count(), type(), root).wait();
    std::vector<std::int64_t> expected(count());
    for (std::size_t i = 0; i < count(); ++i) expected[i] = element_of(root, i);
    EXPECT_EQ(data.values(), expected) << "root " << root;
  }
}

std::string name_of_case(const testing::TestParamInfo<Collectives::ParamType>& info) {
  const auto& [type, count, memory] = info.param;
  return fmt::format("{}_{}_{}", name_of(type), count, memory.shift == 0 ? "whole" : "pieces_unaligned");
}

constexpr auto kTypes = {DataType::float32, DataType::bfloat16, DataType::float64, DataType::int64, DataType::uint8};

INSTANTIATE_TEST_SUITE_P(Whole, Collectives,
                         testing::Combine(testing::ValuesIn(kTypes), testing::Values(0, 1, 2, 3, 1023, 300'001),
                                          testing::Values(kWhole)),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(Cut, Collectives,
                         testing::Combine(testing::ValuesIn(kTypes), testing::Values(1, 3, 1023, 5'003),
                                          testing::Values(kPiecesUnaligned)),
                         name_of_case);

INSTANTIATE_TEST_SUITE_P(Messages, Collectives,
                         testing::Combine(testing::ValuesIn(kTypes), testing::Values(0, 3, 1023),
                                          testing::Values(kWholeMessages, kPiecesOfMessagesUnaligned)),
                         name_of_case);

TEST(Collective, RefusesAMistakeOfTheCallerBeforeAnyRankIsInvolved) {
  const auto communicator = test::make_communicator({});
  std::vector<float> data(64);
  EXPECT_THROW((void)communicator->all_reduce(nullptr, 1, DataType::float32, ReduceOp::sum), std::invalid_argument);
  EXPECT_THROW((void)communicator->broadcast(std::span<float>(data), communicator->size()), std::invalid_argument);
  EXPECT_THROW((void)communicator->all_to_all(data.data(), data.data(), 1, DataType::float32), std::invalid_argument);
  EXPECT_THROW(
      (void)communicator->all_gather(data.data() + 1, data.data() + 2 - 2 * communicator->rank(), 2, DataType::float32),
      std::invalid_argument);
  EXPECT_FALSE(communicator->failed());
  communicator->barrier().wait();
}

TEST(Collective, PiecesMustFitTheIntOfMpi) {
  if (test::make_communicator({})->backend() != "mpi") GTEST_SKIP() << "only MPI takes an int for a length";
  EXPECT_THROW((void)test::make_communicator({.piece_bytes = 0}), std::invalid_argument);
  EXPECT_THROW((void)test::make_communicator({.piece_bytes = std::size_t{1} << 31}), std::invalid_argument);
}

TEST(Collective, IsRecordedFromItsSubmissionToItsEnd) {
  const auto recorder = std::make_shared<FlightRecorder>();
  const auto track = static_cast<std::size_t>(recorder->add_track("test"));
  const auto communicator =
      test::make_communicator({.flight = FlightTrack{.recorder = recorder, .index = static_cast<int>(track)}});
  if (communicator->backend() == "local") GTEST_SKIP() << "what needs no other rank is not recorded";
  const auto data = test::allocate(sizeof(float));
  Work work = communicator->all_reduce(data.get(), 1, DataType::float32, ReduceOp::sum);
  EXPECT_EQ(recorder->heartbeat(track).enqueued, 1u);
  work.wait();
  communicator->barrier().wait();
  EXPECT_EQ(recorder->heartbeat(track), (FlightRecorder::Heartbeat{.enqueued = 2, .finished = 2}));
}

}  // namespace
}  // namespace perrin::comm
