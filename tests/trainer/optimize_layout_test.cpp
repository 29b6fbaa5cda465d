#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <numeric>

#include "trainer/optimize/gradient_reducer.hpp"
#include "trainer/optimize/parameter_layout.hpp"
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

TEST(Buckets, CoverTheArenaFromItsEndWithoutGapOrOverlap) {
  const ParameterLayout layout(some_parameters(), at::MemoryFormat::ChannelsLast);
  for (const std::int64_t cap : {1, 64, 500, 700, 1 << 20}) {
    std::int64_t end = layout.size();
    std::size_t next = layout.ranges().size();
    for (const Bucket& bucket : cut_buckets(layout, cap)) {
      EXPECT_EQ(bucket.offset + bucket.count, end) << cap;
      EXPECT_EQ(bucket.last_range + 1, next) << cap;
      EXPECT_LE(bucket.first_range, bucket.last_range) << cap;
      end = bucket.offset;
      next = bucket.first_range;
    }
    EXPECT_EQ(end, 0) << cap;
    EXPECT_EQ(next, 0U) << cap;
  }
}

TEST(Buckets, ExceedTheCapOnlyForASingleParameter) {
  const ParameterLayout layout(some_parameters(), at::MemoryFormat::ChannelsLast);
  for (const std::int64_t cap : {64, 500, 700}) {
    for (const Bucket& bucket : cut_buckets(layout, cap))
      if (bucket.first_range != bucket.last_range) {
        EXPECT_LE(bucket.count * 4, cap);
      }
  }
  EXPECT_EQ(cut_buckets(layout, 1).size(), layout.ranges().size());
  EXPECT_EQ(cut_buckets(layout, 1 << 20).size(), 1U);
}

TEST(SlicePlan, RanksCoverTheBatchOnceInOrder) {
  for (const std::int64_t batch : {1, 7, 16, 128})
    for (const int ranks : {1, 2, 3, 4, 7})
      for (const std::int64_t micro : {0, 1, 3, 1000}) {
        if (batch < ranks) continue;
        const SlicePlan plan(batch, ranks, micro);
        std::int64_t next = 0;
        for (int rank = 0; rank < ranks; ++rank)
          for (const Slice& slice : plan.slices_of(rank)) {
            EXPECT_EQ(slice.offset, next);
            EXPECT_GE(slice.count, 1);
            if (micro > 0) {
              EXPECT_LE(slice.count, micro);
            }
            next += slice.count;
          }
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
