#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "comm/comm_error.hpp"
#include "comm/range.hpp"
#include "tests/support/world.hpp"
#include "tests/trainer/counting_communicator.hpp"
#include "tests/trainer/small_network.hpp"
#include "trainer/optimize/gradient_reducer.hpp"
#include "trainer/optimize/slice_plan.hpp"
#include "trainer/same_on_all_ranks.hpp"

namespace perrin::trainer {
namespace {

using test::kBatch, test::kTinyBucket, test::loss_of, test::parameters, test::reference_gradient;

constexpr std::int64_t kHugeBucket = std::int64_t{1} << 30;

ShardOptions options(std::int64_t bucket_bytes, bool shard = false) {
  comm::World& world = perrin::test::world();
  return {.rank = world.rank(), .ranks = world.size(), .bucket_bytes = bucket_bytes, .shard = shard};
}

/// What this rank owns of a gradient, and the same of the reduced one. @param expected [layout().size()]
std::pair<at::Tensor, at::Tensor> own_parts(const ParameterArena& arena, const at::Tensor& expected) {
  const at::Tensor whole = at::constant_pad_nd(expected, {0, arena.plan().size() - expected.numel()});
  at::Tensor found = at::empty({arena.plan().state_size()}), wanted = at::empty_like(found);
  arena.keep_own(arena.gradients(), found);
  arena.keep_own(whole, wanted);
  return {found, wanted};
}

class ReducerOver : public testing::TestWithParam<std::tuple<std::int64_t, std::int64_t, bool>> {};
INSTANTIATE_TEST_SUITE_P(MicroBatchBucketAndShard, ReducerOver,
                         testing::Combine(testing::Values(0, 1, 2), testing::Values(kTinyBucket, kHugeBucket),
                                          testing::Bool()));

TEST_P(ReducerOver, SlicesGivesTheGradientOfTheWholeBatch) {
  comm::World& world = perrin::test::world();
  const auto [micro_batch, bucket_bytes, shard] = GetParam();
  ParameterArena arena(parameters(), 0, /*seed=*/3, at::kCPU, options(bucket_bytes, shard));
  GradientReducer reducer(arena, world.gradients(), world.control(), nullptr);
  const auto slices = SlicePlan(kBatch, world.size(), micro_batch).slices_of(world.rank());
  const at::Tensor expected = reference_gradient();
  for (int step = 0; step < 3; ++step) {  // no step leaves anything behind for the next
    for (std::size_t i = 0; i < slices.size(); ++i) reducer.backward(loss_of(arena, slices[i]), i, slices.size());
    reducer.finish();
    const auto [found, wanted] = own_parts(arena, expected);
    EXPECT_LT((found - wanted).norm().item<double>(), 1e-6 * expected.norm().item<double>());
  }
}

TEST_P(ReducerOver, PartsOfASliceAddsThemBeforeABucketLeaves) {
  comm::World& world = perrin::test::world();
  const auto [micro_batch, bucket_bytes, shard] = GetParam();
  ThreadTeam team(3, 3);
  ParameterArena arena(parameters(), 0, /*seed=*/3, at::kCPU, options(bucket_bytes, shard));
  GradientReducer reducer(arena, world.gradients(), world.control(), nullptr, Reduction::fast, Wire::fp32,
                          /*overlap=*/true, &team);
  const auto slices = SlicePlan(kBatch, world.size(), micro_batch).slices_of(world.rank());
  const at::Tensor expected = reference_gradient();
  for (int step = 0; step < 3; ++step) {
    for (std::size_t i = 0; i < slices.size(); ++i) {
      const auto parts = static_cast<std::size_t>(std::min<std::int64_t>(slices[i].count, 3));
      std::vector<at::Tensor> losses;
      for (std::size_t part = 0; part < parts; ++part) {
        const auto range = comm::part_of({0, static_cast<std::size_t>(slices[i].count)}, static_cast<int>(part),
                                         static_cast<int>(parts));
        losses.push_back(loss_of(reducer.leaves(part), {slices[i].offset + static_cast<std::int64_t>(range.begin),
                                                        static_cast<std::int64_t>(range.length())}));
      }
      reducer.backward(losses, i, slices.size());
    }
    reducer.finish();
    const auto [found, wanted] = own_parts(arena, expected);
    EXPECT_LT((found - wanted).norm().item<double>(), 1e-6 * expected.norm().item<double>());
  }
}

/// The gradients of all shards in one process, added as a binary tree of neighbours.
at::Tensor sum_in_tree(std::int64_t shards) {
  std::vector<at::Tensor> level;
  for (const Slice& shard : SlicePlan(kBatch, 1, 0, shards).slices_of(0)) level.push_back(reference_gradient(shard));
  for (; level.size() > 1; level.resize(level.size() / 2))
    for (std::size_t i = 0; i < level.size() / 2; ++i) level[i] = level[2 * i] + level[2 * i + 1];
  return level[0];
}

TEST(ReproducibleReduction, GivesTheBitsOfTheTreeOnAnyNumberOfRanks) {
  comm::World& world = perrin::test::world();  // 1, 2 or 4 ranks
  for (const std::int64_t shards : {4, 8}) {
    const at::Tensor expected = sum_in_tree(shards);
    for (const std::int64_t bucket_bytes : {kTinyBucket, kHugeBucket})
      for (const bool shard : {false, true}) {
        ParameterArena arena(parameters(), 0, /*seed=*/3, at::kCPU, options(bucket_bytes, shard));
        GradientReducer reducer(arena, world.gradients(), world.control(), nullptr, Reduction::reproducible);
        const auto slices = SlicePlan(kBatch, world.size(), 0, shards).slices_of(world.rank());
        for (int step = 0; step < 2; ++step) {
          for (std::size_t i = 0; i < slices.size(); ++i) reducer.backward(loss_of(arena, slices[i]), i, slices.size());
          reducer.finish();
          const auto [found, wanted] = own_parts(arena, expected);
          EXPECT_TRUE(found.equal(wanted)) << shards << (shard ? ", sharded" : "");
        }
      }
  }
}

TEST(Reducer, SendsTheLastLayersWhileBackwardIsStillAtTheFirst) {
  comm::World& world = perrin::test::world();
  for (const bool shard : {false, true}) {
    ParameterArena arena(parameters(), 0, 3, at::kCPU, options(kTinyBucket, shard));
    test::CountingCommunicator gradients(world.gradients());
    GradientReducer reducer(arena, gradients, world.control(), nullptr);
    int submitted_before_the_first_layer = -1;
    arena.leaves()[0].register_hook(
        [&](const at::Tensor&) { submitted_before_the_first_layer = gradients.submitted(); });

    const Slice slice = SlicePlan(kBatch, world.size(), 0).slices_of(world.rank())[0];
    reducer.backward(loss_of(arena, slice), /*slice=*/0, /*slices=*/2);
    EXPECT_EQ(gradients.submitted(), 0);  // accumulation over micro-batches communicates once
    reducer.backward(loss_of(arena, slice), /*slice=*/1, /*slices=*/2);
    reducer.finish();
    const auto buckets = static_cast<int>(arena.plan().buckets().size());
    EXPECT_GE(buckets, 6);
    EXPECT_EQ(submitted_before_the_first_layer, buckets - 1);  // the first layer lies in the last one
    EXPECT_EQ(gradients.submitted(), buckets);
  }
}

/// A loss whose gradient is what each rank says: small integers that differ from element to element.
at::Tensor loss_with_integer_gradient(const ParameterArena& arena, int rank) {
  at::Tensor loss = at::zeros({});
  for (const at::Tensor& leaf : arena.leaves())
    loss = loss + (leaf * (at::arange(leaf.numel(), at::kFloat).view(leaf.sizes()) + 3 * rank).remainder(17)).sum();
  return loss;
}

TEST(Bf16Wire, AddsSmallIntegersExactlyAndGivesAllRanksTheSameBits) {
  comm::World& world = perrin::test::world();
  for (const bool shard : {false, true}) {
    ParameterArena arena(parameters(), 0, 3, at::kCPU, options(kTinyBucket, shard));
    GradientReducer reducer(arena, world.gradients(), world.control(), nullptr, Reduction::fast, Wire::bf16);
    at::Tensor expected = at::zeros({arena.layout().size()});
    for (int rank = 0; rank < world.size(); ++rank)
      for (const auto& range : arena.layout().ranges())
        arena.layout().view(expected, range) +=
            (at::arange(range.numel, at::kFloat).view(range.shape) + 3 * rank).remainder(17);
    reducer.backward(loss_with_integer_gradient(arena, world.rank()), 0, 1);
    reducer.finish();
    const auto [found, wanted] = own_parts(arena, expected);
    EXPECT_TRUE(found.equal(wanted));
  }
}

TEST(Bf16Wire, IsWithinItsRoundingOfTheGradientAndSendsHalfTheBytes) {
  comm::World& world = perrin::test::world();
  if (world.size() == 1) GTEST_SKIP() << "one rank sends nothing";
  const at::Tensor expected = reference_gradient();
  const Slice slice = SlicePlan(kBatch, world.size(), 0).slices_of(world.rank())[0];
  for (const bool shard : {false, true}) {
    std::size_t bytes[2] = {};
    for (const Wire wire : {Wire::fp32, Wire::bf16}) {
      // Reproducible reduction exchanges the same parts in fp32.
      const Reduction reduction = wire == Wire::fp32 ? Reduction::reproducible : Reduction::fast;
      ParameterArena arena(parameters(), 0, 3, at::kCPU, options(kTinyBucket, shard));
      test::CountingCommunicator gradients(world.gradients());
      GradientReducer reducer(arena, gradients, world.control(), nullptr, reduction, wire);
      reducer.backward(loss_of(arena, slice), 0, 1);
      reducer.finish();
      bytes[wire == Wire::bf16] = gradients.bytes();
      const auto [found, wanted] = own_parts(arena, expected);
      const double error = ((found - wanted).norm() / wanted.norm()).item<double>();
      if (wire == Wire::bf16) {
        EXPECT_LT(error, 1e-2);
        EXPECT_GT(error, 1e-4) << "nothing was rounded";
        if (!shard)
          EXPECT_NO_THROW(require_same_on_all_ranks(
              world.control(),
              std::string(reinterpret_cast<const char*>(found.const_data_ptr<float>()), found.nbytes()), "the sums"));
      }
    }
    EXPECT_EQ(2 * bytes[1], bytes[0]);
  }
}

TEST(Reducer, WithoutOverlapSendsTheSameAfterBackward) {
  comm::World& world = perrin::test::world();
  ParameterArena arena(parameters(), 0, 3, at::kCPU, options(kTinyBucket));
  test::CountingCommunicator gradients(world.gradients());
  GradientReducer reducer(arena, gradients, world.control(), nullptr, Reduction::fast, Wire::fp32, /*overlap=*/false);
  const Slice slice = SlicePlan(kBatch, world.size(), 0).slices_of(world.rank())[0];
  reducer.backward(loss_of(arena, slice), /*slice=*/0, /*slices=*/1);
  EXPECT_EQ(gradients.submitted(), 0);
  reducer.finish();
  EXPECT_EQ(gradients.submitted(), static_cast<int>(arena.plan().buckets().size()));
  const auto [found, wanted] = own_parts(arena, reference_gradient());
  EXPECT_LT((found - wanted).norm().item<double>(), 1e-6 * wanted.norm().item<double>());
}

TEST(Reducer, NamesTheParameterWhoseGradientIsNotFiniteOnTheRankThatMadeIt) {
  comm::World& world = perrin::test::world();
  const bool bad = world.rank() == world.size() - 1;
  for (const bool shard : {false, true})
    for (const Reduction reduction : {Reduction::fast, Reduction::reproducible})
      for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        ParameterArena arena(parameters(), 0, 3, at::kCPU, options(kTinyBucket, shard));
        GradientReducer reducer(arena, world.gradients(), world.control(), nullptr, reduction);
        const Slice slice = SlicePlan(kBatch, world.size(), 0).slices_of(world.rank())[0];
        for (const bool poisoned : {true, false}) {  // the next step knows nothing of it
          at::Tensor loss = loss_of(arena, slice);
          if (poisoned && bad) loss = loss + arena.leaves()[2].view(-1)[5] * poison;
          reducer.backward(loss, 0, 1);
          EXPECT_EQ(reducer.non_finite_gradient(), poisoned && bad ? "wide.weight" : "");
          reducer.finish();
          EXPECT_EQ(reducer.non_finite_gradient(), poisoned && bad ? "wide.weight" : "") << "by the sum of all ranks";
        }
      }
}

TEST(Reducer, LaysBucketsOutAlikeOnAllRanks) {
  comm::World& world = perrin::test::world();
  ParameterArena arena(parameters(), 0, 3, at::kCPU, options(kTinyBucket));
  GradientReducer reducer(arena, world.gradients(), world.control(), nullptr);
  EXPECT_GT(arena.plan().buckets().size(), 1U);
  EXPECT_NO_THROW(require_same_on_all_ranks(world.control(), reducer.layout_hash(), "the layout hashes"));
}

TEST(Reducer, RefusesOtherParametersOnOneRankBeforeTheFirstStepAndNamesIt) {
  comm::World& world = perrin::test::world();
  if (world.size() == 1) GTEST_SKIP() << "one rank has nobody to differ from";
  auto specs = parameters();
  const int odd = world.size() - 1;
  if (world.rank() == odd) std::swap(specs[1], specs[3]);
  ParameterArena arena(specs, 0, 3, at::kCPU, options(kTinyBucket));
  try {
    const GradientReducer reducer(arena, world.gradients(), world.control(), nullptr);
    FAIL() << "different parameters were accepted";
  } catch (const comm::CommError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("rank " + std::to_string(odd)));
    EXPECT_EQ(error.late_ranks(), std::vector<int>{odd});
  }
}

TEST(Reducer, RefusesAnArenaThatIsCutForOtherRanks) {
  comm::World& world = perrin::test::world();
  ParameterArena arena(parameters(), 0, 3, at::kCPU, {.rank = world.rank(), .ranks = world.size() + 1});
  EXPECT_THROW(GradientReducer(arena, world.gradients(), world.control(), nullptr), std::invalid_argument);
}

TEST(Reducer, NamesAParameterThatTheModelDoesNotUse) {
  comm::World& world = perrin::test::world();
  // A cap above the arena: nothing leaves, so that no rank waits for a bucket that never fills.
  ParameterArena arena({{.name = "conv.weight", .shape = {6, 2, 3, 3}}, {.name = "conv.bias", .shape = {6}}}, 0, 3,
                       at::kCPU, options(kHugeBucket));
  GradientReducer reducer(arena, world.gradients(), world.control(), nullptr);
  try {
    reducer.backward(arena.leaves()[0].square().sum(), 0, 1);
    FAIL() << "a missing gradient was accepted";
  } catch (const std::logic_error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("'conv.bias'"));
  }
}

TEST(SameOnAllRanks, AcceptsEqualTextsAndNamesTheRankThatDiffers) {
  comm::World& world = perrin::test::world();
  EXPECT_NO_THROW(require_same_on_all_ranks(world.control(), "equal", "the texts"));
  if (world.size() == 1) return;
  EXPECT_THROW(require_same_on_all_ranks(world.control(), world.rank() == 1 ? "other" : "equal", "the texts"),
               comm::CommError);
}

}  // namespace
}  // namespace perrin::trainer
