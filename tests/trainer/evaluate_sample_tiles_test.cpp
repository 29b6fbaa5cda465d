#include <gtest/gtest.h>

#include <cstdint>

#include "trainer/evaluate/sample_tiles.hpp"

namespace perrin::trainer {
namespace {

TEST(SampleTiles, HoldEveryWantedImageOnceInOrder) {
  for (std::int64_t first = 0; first < 40; ++first)
    for (std::int64_t count = 1; count < 40; ++count) {
      std::int64_t next = first;
      for (const SampleTile& tile : sample_tiles(first, count, 3, at::kCPU)) {
        EXPECT_EQ(tile.first + tile.skipped, next);
        EXPECT_LE(tile.skipped + tile.wanted, tile.images);
        EXPECT_GT(tile.wanted, 0);
        next += tile.wanted;
      }
      EXPECT_EQ(next, first + count);
    }
}

TEST(SampleTiles, GiveAnImageOneRowOfOneTileWhateverIsWanted) {
  for (const std::int64_t batch_size : {1, 3, 64}) {
    const std::int64_t images = sample_tiles(0, 1, batch_size, at::kCPU).front().images;
    EXPECT_EQ(images, sample_tiles(0, 1, 16, at::kCPU).front().images);
    for (const SampleTile& tile : sample_tiles(5, 50, batch_size, at::kCPU)) {
      EXPECT_EQ(tile.images, images);
      EXPECT_EQ(tile.first % images, 0);
    }
  }
}

TEST(SampleTiles, AreTheBatchesElsewhere) {
  const auto tiles = sample_tiles(12, 6, 6, at::kCUDA);
  ASSERT_EQ(tiles.size(), 1U);
  EXPECT_EQ(tiles.front().first, 12);
  EXPECT_EQ(tiles.front().images, 6);
  EXPECT_EQ(tiles.front().wanted, 6);
}

}  // namespace
}  // namespace perrin::trainer
