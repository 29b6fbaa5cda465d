#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/optimize/parameter_layout.hpp"
#include "trainer/optimize/shard_plan.hpp"
#include "trainer/optimize/slice_plan.hpp"

namespace perrin::trainer {
namespace {

std::vector<ParameterSpec> some_parameters() {
  return {{.name = "conv.weight", .shape = {5, 3, 3, 3}},
          {.name = "conv.bias", .shape = {5}},
          {.name = "linear.weight", .shape = {7, 20}},
          {.name = "linear.bias", .shape = {7}},
          {.name = "last", .shape = {40}}};
}

TEST(ParameterLayout, PlacesEveryParameterOnItsOwnCacheLines) {
  const ParameterLayout layout(some_parameters(), at::MemoryFormat::ChannelsLast);
  std::int64_t end = 0, numel = 0;
  for (const auto& range : layout.ranges()) {
    EXPECT_EQ(range.offset % ParameterLayout::kAlignment, 0) << range.name;
    EXPECT_GE(range.offset, end) << range.name;
    end = range.offset + range.numel;
    numel += range.numel;
  }
  EXPECT_GE(layout.size(), end);
  EXPECT_EQ(layout.numel(), numel);
}

TEST(ParameterLayout, ViewsHaveLogicalShapesAndShareMemory) {
  const ParameterLayout layout(some_parameters(), at::MemoryFormat::ChannelsLast);
  const at::Tensor flat = at::zeros({layout.size()});
  for (const auto& range : layout.ranges()) {
    const at::Tensor view = layout.view(flat, range);
    EXPECT_EQ(view.sizes(), at::IntArrayRef(range.shape));
    view.fill_(1.0);
  }
  EXPECT_EQ(flat.sum().item<double>(), static_cast<double>(layout.numel()));
}

TEST(ParameterLayout, ConvolutionsAreStoredChannelsLast) {
  const ParameterLayout layout(some_parameters(), at::MemoryFormat::ChannelsLast);
  const at::Tensor view = layout.view(at::zeros({layout.size()}), layout.ranges()[0]);
  EXPECT_TRUE(view.is_contiguous(at::MemoryFormat::ChannelsLast));
}

constexpr std::int64_t kCaps[] = {1, 100'000, 1 << 20, std::int64_t{1} << 40};  // bytes
constexpr int kRanks[] = {1, 2, 3, 4, 7, 64};

/// About 1.2 MB in parameters of all sizes, one of them far above some of the caps.
ParameterLayout large_layout() {
  auto parameters = some_parameters();
  parameters.push_back({.name = "wide", .shape = {300, 1000}});
  parameters.push_back({.name = "end", .shape = {3}});
  return {parameters, at::MemoryFormat::Contiguous};
}

TEST(ShardPlan, BucketsCoverTheArenaFromItsEndInPartsOfWholeNormBlocks) {
  for (const ParameterLayout& layout :
       {ParameterLayout(some_parameters(), at::MemoryFormat::Contiguous), large_layout()})
    for (const std::int64_t cap : kCaps)
      for (const int ranks : kRanks) {
        const ShardPlan plan(layout, {.ranks = ranks, .bucket_bytes = cap});
        EXPECT_GE(plan.size(), layout.size());
        EXPECT_LT(plan.size() - layout.size(), ranks * kNormBlock);
        std::int64_t end = plan.size();
        for (const Bucket& bucket : plan.buckets()) {
          EXPECT_EQ(bucket.offset + bucket.count, end) << cap << ", " << ranks;
          EXPECT_GT(bucket.count, 0);
          EXPECT_EQ(bucket.count % (ranks * kNormBlock), 0) << cap << ", " << ranks;
          EXPECT_LE(bucket.count * 4, std::max(cap, ranks * kNormBlock * 4)) << cap << ", " << ranks;
          end = bucket.offset;
        }
        EXPECT_EQ(end, 0) << cap << ", " << ranks;
      }
}

TEST(ShardPlan, TheFirstBucketIsSmallAndTheOthersAreAsLargeAsTheyMayBe) {
  const ShardPlan plan(ParameterLayout({{.name = "w", .shape = {10'000'000}}}, at::MemoryFormat::Contiguous),
                       {.ranks = 2, .bucket_bytes = std::int64_t{4} << 20});
  EXPECT_EQ(plan.buckets().front().count * 4, 1 << 20);
  for (std::size_t b = 1; b + 1 < plan.buckets().size(); ++b) EXPECT_EQ(plan.buckets()[b].count * 4, 4 << 20);
}

TEST(ShardPlan, EveryElementHasOneOwnerAndOnePlaceInItsState) {
  const ParameterLayout layout = large_layout();
  for (const std::int64_t cap : kCaps)
    for (const int ranks : kRanks) {
      const ShardPlan plan(layout, {.ranks = ranks, .bucket_bytes = cap, .shard = true});
      EXPECT_EQ(plan.sharded(), ranks > 1);
      EXPECT_EQ(plan.state_size() * ranks, plan.size());
      std::vector<int> owners(static_cast<std::size_t>(plan.size()));
      for (int rank = 0; rank < ranks; ++rank) {
        std::int64_t state = 0;
        for (const Segment& segment : plan.segments_of(rank)) {
          EXPECT_EQ(segment.state_offset, state);
          EXPECT_EQ(segment.arena_offset % kNormBlock, 0);
          state += segment.count;
          for (std::int64_t i = 0; i < segment.count; ++i) ++owners[static_cast<std::size_t>(segment.arena_offset + i)];
        }
        EXPECT_EQ(state, plan.state_size());
      }
      EXPECT_EQ(std::count(owners.begin(), owners.end(), 1), plan.size()) << cap << ", " << ranks;
    }
}

TEST(ShardPlan, WithoutShardingEveryRankOwnsTheWholeArenaAsOneSegment) {
  const ShardPlan plan(large_layout(), {.rank = 1, .ranks = 3, .bucket_bytes = 1});
  ASSERT_EQ(plan.own().size(), 1u);
  EXPECT_EQ(plan.own()[0].count, plan.size());
  EXPECT_EQ(plan.state_size(), plan.size());
  EXPECT_THROW(ShardPlan(large_layout(), {.rank = 3, .ranks = 3}), std::invalid_argument);
}

TEST(SlicePlan, RanksCoverTheBatchOnceInOrder) {
  for (const std::int64_t batch : {1, 7, 16, 128})
    for (const int ranks : {1, 2, 3, 4, 7})
      for (const std::int64_t micro : {0, 1, 3, 1000}) {
        if (batch < ranks) continue;
        const SlicePlan plan(batch, ranks, micro);
        std::int64_t next = 0, largest = 0;
        for (int rank = 0; rank < ranks; ++rank)
          for (const Slice& slice : plan.slices_of(rank)) {
            EXPECT_EQ(slice.offset, next);
            EXPECT_GE(slice.count, 1);
            if (micro > 0) {
              EXPECT_LE(slice.count, micro);
            }
            next += slice.count;
            largest = std::max(largest, slice.count);
          }
        EXPECT_EQ(plan.largest_slice(), largest);
        EXPECT_EQ(next, batch) << batch << " over " << ranks << " by " << micro;
      }
}

TEST(SlicePlan, ShardsAreCutAlikeForAnyNumberOfRanks) {
  std::vector<std::pair<std::int64_t, std::int64_t>> reference;
  for (const int ranks : {1, 2, 4, 8}) {
    std::vector<std::pair<std::int64_t, std::int64_t>> shards;
    for (int rank = 0; rank < ranks; ++rank)
      for (const Slice& slice : SlicePlan(21, ranks, 0, 8).slices_of(rank))
        shards.emplace_back(slice.offset, slice.count);
    if (ranks == 1) reference = shards;
    EXPECT_EQ(shards, reference) << ranks;
  }
  EXPECT_EQ(reference.size(), 8u);
  EXPECT_THROW(SlicePlan(21, 3, 0, 8), std::invalid_argument);
  EXPECT_THROW(SlicePlan(7, 1, 0, 8), std::invalid_argument);
}

TEST(SlicePlan, RefusesABatchSmallerThanTheRanks) { EXPECT_THROW(SlicePlan(3, 4, 0), std::invalid_argument); }

}  // namespace
}  // namespace perrin::trainer
