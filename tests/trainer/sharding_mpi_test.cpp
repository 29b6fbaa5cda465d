#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/world.hpp"
#include "tests/trainer/small_network.hpp"
#include "trainer/optimize/adam_ema.hpp"
#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/optimize/gradient_reducer.hpp"
#include "trainer/optimize/shard_gather.hpp"

namespace perrin::trainer {
namespace {

using test::kBatch, test::kTinyBucket, test::loss_of, test::parameters;

constexpr std::int64_t kSteps = 30;
constexpr double kClip = 0.05;

/// A training of the small network on all ranks, with a clip that acts.
class Training {
 public:
  Training(bool shard, Reduction reduction)
      : world_(perrin::test::world()),
        arena_(parameters(), kEma.decays.size() + kEma.power_sigmas.size(), /*seed=*/3, at::kCPU,
               {.rank = world_.rank(), .ranks = world_.size(), .bucket_bytes = kTinyBucket, .shard = shard}),
        reducer_(arena_, world_.gradients(), world_.control(), nullptr, reduction),
        shards_(arena_, world_.gradients(), nullptr),
        slices_(SlicePlan(kBatch, world_.size(), /*micro_batch=*/2, reduction == Reduction::reproducible ? 4 : 0)
                    .slices_of(world_.rank())) {}

  /// @param poison added to the gradient of the first parameter by one rank alone
  UpdateOutcome step(float poison = 0) {
    for (std::size_t i = 0; i < slices_.size(); ++i) {
      at::Tensor loss = loss_of(arena_, slices_[i]);
      if (poison != 0 && world_.rank() == world_.size() - 1) loss = loss + arena_.leaves()[0].sum() * poison;
      reducer_.backward(loss, i, slices_.size());
    }
    reducer_.finish();
    const UpdateOutcome outcome = adam_.update(arena_, gradient_norm(arena_, world_.control()), step_++, updates_,
                                               [&](std::size_t segment) { shards_.send_weights(segment); });
    shards_.finish();
    updates_ += outcome.skipped ? 0 : 1;
    return outcome;
  }

  ParameterArena& arena() { return arena_; }
  /// Every buffer as a checkpoint would hold it.
  std::vector<at::Tensor> whole_buffers() {
    std::vector<at::Tensor> whole;
    for (const PersistentBuffer& buffer : arena_.persistent()) whole.push_back(shards_.materialise(buffer).clone());
    return whole;
  }

 private:
  inline static const EmaConfig kEma{.decays = {0.9, 0.99}, .power_sigmas = {0.1}};
  inline static const OptimizerConfig kOptimizer{.lr = 1e-3, .clip_norm = kClip, .warmup_steps = 3};

  comm::World& world_;
  ParameterArena arena_;
  GradientReducer reducer_;
  ShardGather shards_;
  AdamEma adam_{kOptimizer, kEma, kSteps};
  std::vector<Slice> slices_;
  std::int64_t step_ = 0, updates_ = 0;
};

class Sharding : public testing::TestWithParam<Reduction> {};
INSTANTIATE_TEST_SUITE_P(Reductions, Sharding, testing::Values(Reduction::fast, Reduction::reproducible));

TEST_P(Sharding, GivesTheBitsOfPlainTraining) {
  Training plain(false, GetParam()), sharded(true, GetParam());
  const at::Tensor initial = plain.arena().weights().clone();
  double largest_norm = 0;
  for (int i = 0; i < kSteps; ++i) {
    const UpdateOutcome expected = plain.step(), found = sharded.step();
    EXPECT_EQ(found.gradient_norm, expected.gradient_norm) << i;
    largest_norm = std::max(largest_norm, expected.gradient_norm);
  }
  EXPECT_GT(largest_norm, kClip) << "the clip never acted";
  EXPECT_GT((plain.arena().weights() - initial).norm().item<double>(), 1e-2) << "nothing was trained";
  const auto expected = plain.whole_buffers(), found = sharded.whole_buffers();
  ASSERT_EQ(found.size(), 6u);  // weights, both moments, three averages
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(found[i].equal(expected[i])) << i;
}

TEST_P(Sharding, KeepsOnePartOfTheStateOnEachRank) {
  const int ranks = perrin::test::world().size();
  Training plain(false, GetParam()), sharded(true, GetParam());
  for (int i = 0; i < 2; ++i) {
    plain.step();
    sharded.step();
  }
  const auto whole = plain.arena().persistent(), parts = sharded.arena().persistent();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    const auto expected = whole[i].is_state ? whole[i].values.storage().nbytes() / static_cast<std::size_t>(ranks)
                                            : whole[i].values.storage().nbytes();
    EXPECT_EQ(parts[i].values.storage().nbytes(), expected) << whole[i].name;
  }
}

TEST_P(Sharding, AGradientThatIsNotFiniteOnOneRankIsSkippedByAll) {
  Training sharded(true, GetParam());
  sharded.step();
  const auto before = sharded.whole_buffers();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const UpdateOutcome outcome = sharded.step(bad);
    EXPECT_TRUE(outcome.skipped);
    EXPECT_FALSE(std::isfinite(outcome.gradient_norm));
  }
  const auto after = sharded.whole_buffers();
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(after[i].equal(before[i])) << i;
  EXPECT_FALSE(sharded.step().skipped);
}

TEST(ShardGather, PutsTogetherWhatEveryRankKeeps) {
  comm::World& world = perrin::test::world();
  for (const bool shard : {false, true}) {
    ParameterArena arena(parameters(), 1, 3, at::kCPU,
                         {.rank = world.rank(), .ranks = world.size(), .bucket_bytes = kTinyBucket, .shard = shard});
    const at::Tensor whole = at::arange(arena.plan().size(), at::kFloat);
    arena.keep_own(whole, arena.emas()[0]);
    const ShardGather shards(arena, world.gradients(), nullptr);
    EXPECT_TRUE(shards.materialise(arena.ema(0)).equal(whole));
  }
}

}  // namespace
}  // namespace perrin::trainer
