#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/comm_error.hpp"
#include "tests/support/world.hpp"
#include "trainer/optimize/gradient_reducer.hpp"
#include "trainer/optimize/slice_plan.hpp"
#include "trainer/same_on_all_ranks.hpp"

namespace perrin::trainer {
namespace {

constexpr std::int64_t kBatch = 12;
constexpr std::int64_t kTinyBucket = 64;  // bytes: every parameter below leaves on its own

std::vector<ParameterSpec> parameters() {
  const Initializer random{.kind = Initializer::Kind::xavier_uniform, .scale = 1.0};
  return {{.name = "conv.weight", .shape = {6, 2, 3, 3}, .initializer = random},
          {.name = "conv.bias", .shape = {6}},
          {.name = "linear.weight", .shape = {4, 6}, .initializer = random},
          {.name = "linear.bias", .shape = {4}}};
}

/// Mean over the global batch of a small convolutional network's squared output; the images are the same on every rank.
at::Tensor loss_of(const ParameterArena& arena, std::int64_t offset, std::int64_t count) {
  const at::Tensor images =
      at::arange(kBatch * 2 * 5 * 5, at::kFloat).view({kBatch, 2, 5, 5}).sin().narrow(0, offset, count);
  const auto& p = arena.leaves();
  const at::Tensor features = at::conv2d(images, p[0], p[1]).tanh().mean({2, 3});
  return at::linear(features, p[2], p[3]).square().sum() / kBatch;
}

/// The gradient of the whole batch in one process, without hooks or buckets.
at::Tensor reference_gradient() {
  const ParameterArena arena(parameters(), 0, /*seed=*/3, at::kCPU);
  loss_of(arena, 0, kBatch).backward();
  at::Tensor flat = at::zeros({arena.layout().size()});
  for (std::size_t i = 0; i < arena.leaves().size(); ++i)
    arena.layout().view(flat, arena.layout().ranges()[i]).copy_(arena.leaves()[i].grad());
  return flat;
}

class ReducerOver : public testing::TestWithParam<std::tuple<std::int64_t, std::int64_t>> {};
INSTANTIATE_TEST_SUITE_P(MicroBatchAndBucket, ReducerOver,
                         testing::Combine(testing::Values(0, 1, 2),
                                          testing::Values(kTinyBucket, std::int64_t{1} << 20)));

TEST_P(ReducerOver, SlicesGivesTheGradientOfTheWholeBatch) {
  comm::World& world = test::world();
  const auto [micro_batch, bucket_bytes] = GetParam();
  ParameterArena arena(parameters(), 0, /*seed=*/3, at::kCPU);
  GradientReducer reducer(arena, world.gradients(), world.control(), bucket_bytes, nullptr);
  const auto slices = SlicePlan(kBatch, world.size(), micro_batch).slices_of(world.rank());
  for (int step = 0; step < 3; ++step) {  // no step leaves anything behind for the next
    for (std::size_t i = 0; i < slices.size(); ++i)
      reducer.backward(loss_of(arena, slices[i].offset, slices[i].count), i, slices.size());
    reducer.finish();
    const at::Tensor expected = reference_gradient();
    EXPECT_LT((arena.gradients() - expected).norm().item<double>(), 1e-6 * expected.norm().item<double>());
  }
}

/// The gradients of all shards in one process, added as a binary tree of neighbours.
at::Tensor sum_in_tree(std::int64_t shards) {
  std::vector<at::Tensor> level;
  for (const Slice& shard : SlicePlan(kBatch, 1, 0, shards).slices_of(0)) {
    const ParameterArena arena(parameters(), 0, /*seed=*/3, at::kCPU);
    loss_of(arena, shard.offset, shard.count).backward();
    at::Tensor flat = at::zeros({arena.layout().size()});
    for (std::size_t i = 0; i < arena.leaves().size(); ++i)
      arena.layout().view(flat, arena.layout().ranges()[i]).copy_(arena.leaves()[i].grad());
    level.push_back(flat);
  }
  for (; level.size() > 1; level.resize(level.size() / 2))
    for (std::size_t i = 0; i < level.size() / 2; ++i) level[i] = level[2 * i] + level[2 * i + 1];
  return level[0];
}

TEST(ReproducibleReduction, GivesTheBitsOfTheTreeOnAnyNumberOfRanks) {
  comm::World& world = test::world();  // 1, 2 or 4 ranks
  for (const std::int64_t shards : {4, 8}) {
    for (const std::int64_t bucket_bytes : {kTinyBucket, std::int64_t{1} << 20}) {
      ParameterArena arena(parameters(), 0, /*seed=*/3, at::kCPU);
      GradientReducer reducer(arena, world.gradients(), world.control(), bucket_bytes, nullptr,
                              Reduction::reproducible);
      const auto slices = SlicePlan(kBatch, world.size(), 0, shards).slices_of(world.rank());
      for (int step = 0; step < 2; ++step) {
        for (std::size_t i = 0; i < slices.size(); ++i)
          reducer.backward(loss_of(arena, slices[i].offset, slices[i].count), i, slices.size());
        reducer.finish();
        EXPECT_TRUE(arena.gradients().equal(sum_in_tree(shards))) << shards;
      }
    }
  }
}

/// Counts what is submitted, and passes it on.
class CountingCommunicator final : public comm::Communicator {
 public:
  explicit CountingCommunicator(comm::Communicator& inner) : inner_(inner) {}

  int submitted() const { return submitted_; }
  int rank() const noexcept override { return inner_.rank(); }
  int size() const noexcept override { return inner_.size(); }
  std::string_view backend() const noexcept override { return inner_.backend(); }
  bool failed() const noexcept override { return inner_.failed(); }
  comm::Work all_reduce(void* data, std::size_t count, comm::DataType type, comm::ReduceOp op, void* stream) override {
    ++submitted_;
    return inner_.all_reduce(data, count, type, op, stream);
  }
  comm::Work reduce_scatter(const void* input, void* output, std::size_t count, comm::DataType type, comm::ReduceOp op,
                            void* stream) override {
    return inner_.reduce_scatter(input, output, count, type, op, stream);
  }
  comm::Work all_gather(const void* input, void* output, std::size_t count, comm::DataType type,
                        void* stream) override {
    return inner_.all_gather(input, output, count, type, stream);
  }
  comm::Work all_to_all(const void* input, void* output, std::size_t count, comm::DataType type,
                        void* stream) override {
    return inner_.all_to_all(input, output, count, type, stream);
  }
  comm::Work broadcast(void* data, std::size_t count, comm::DataType type, int root, void* stream) override {
    return inner_.broadcast(data, count, type, root, stream);
  }
  comm::Work barrier() override { return inner_.barrier(); }

 private:
  comm::Communicator& inner_;
  int submitted_ = 0;
};

TEST(Reducer, SendsTheLastLayersWhileBackwardIsStillAtTheFirst) {
  comm::World& world = test::world();
  ParameterArena arena(parameters(), 0, 3, at::kCPU);
  CountingCommunicator gradients(world.gradients());
  GradientReducer reducer(arena, gradients, world.control(), kTinyBucket, nullptr);
  int submitted_before_the_first_layer = -1;
  arena.leaves()[0].register_hook([&](const at::Tensor&) { submitted_before_the_first_layer = gradients.submitted(); });

  const Slice slice = SlicePlan(kBatch, world.size(), 0).slices_of(world.rank())[0];
  reducer.backward(loss_of(arena, slice.offset, slice.count), /*slice=*/0, /*slices=*/2);
  EXPECT_EQ(gradients.submitted(), 0);  // accumulation over micro-batches communicates once
  reducer.backward(loss_of(arena, slice.offset, slice.count), /*slice=*/1, /*slices=*/2);
  reducer.finish();
  EXPECT_EQ(submitted_before_the_first_layer, 2);  // linear.bias and linear.weight
  EXPECT_EQ(gradients.submitted(), 4);
}

TEST(Reducer, WithoutOverlapSendsTheSameAfterBackward) {
  comm::World& world = test::world();
  ParameterArena arena(parameters(), 0, 3, at::kCPU);
  CountingCommunicator gradients(world.gradients());
  GradientReducer reducer(arena, gradients, world.control(), kTinyBucket, nullptr, Reduction::fast, /*overlap=*/false);
  const Slice slice = SlicePlan(kBatch, world.size(), 0).slices_of(world.rank())[0];
  reducer.backward(loss_of(arena, slice.offset, slice.count), /*slice=*/0, /*slices=*/1);
  EXPECT_EQ(gradients.submitted(), 0);
  reducer.finish();
  EXPECT_EQ(gradients.submitted(), 4);
  const at::Tensor expected = reference_gradient();
  EXPECT_LT((arena.gradients() - expected).norm().item<double>(), 1e-6 * expected.norm().item<double>());
}

TEST(Reducer, LaysBucketsOutAlikeOnAllRanks) {
  comm::World& world = test::world();
  ParameterArena arena(parameters(), 0, 3, at::kCPU);
  GradientReducer reducer(arena, world.gradients(), world.control(), kTinyBucket, nullptr);
  EXPECT_GT(reducer.buckets().size(), 1U);
  EXPECT_NO_THROW(require_same_on_all_ranks(world.control(), reducer.layout_hash(), "the layout hashes"));
}

TEST(Reducer, RefusesOtherParametersOnOneRankBeforeTheFirstStepAndNamesIt) {
  comm::World& world = test::world();
  if (world.size() == 1) GTEST_SKIP() << "one rank has nobody to differ from";
  auto specs = parameters();
  const int odd = world.size() - 1;
  if (world.rank() == odd) std::swap(specs[1], specs[3]);
  ParameterArena arena(specs, 0, 3, at::kCPU);
  try {
    const GradientReducer reducer(arena, world.gradients(), world.control(), kTinyBucket, nullptr);
    FAIL() << "different parameters were accepted";
  } catch (const comm::CommError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("rank " + std::to_string(odd)));
    EXPECT_EQ(error.late_ranks(), std::vector<int>{odd});
  }
}

TEST(Reducer, NamesAParameterThatTheModelDoesNotUse) {
  comm::World& world = test::world();
  ParameterArena arena(parameters(), 0, 3, at::kCPU);
  // A cap above the arena: nothing leaves, so that no rank waits for a bucket that never fills.
  GradientReducer reducer(arena, world.gradients(), world.control(), std::int64_t{1} << 20, nullptr);
  try {
    reducer.backward(arena.leaves()[0].square().sum(), 0, 1);
    FAIL() << "a missing gradient was accepted";
  } catch (const std::logic_error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("'conv.bias'"));
  }
}

TEST(SameOnAllRanks, AcceptsEqualTextsAndNamesTheRankThatDiffers) {
  comm::World& world = test::world();
  EXPECT_NO_THROW(require_same_on_all_ranks(world.control(), "equal", "the texts"));
  if (world.size() == 1) return;
  EXPECT_THROW(require_same_on_all_ranks(world.control(), world.rank() == 1 ? "other" : "equal", "the texts"),
               comm::CommError);
}

}  // namespace
}  // namespace perrin::trainer
