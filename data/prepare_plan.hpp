#pragma once

#include <cstdint>
#include <string>

#include "data/image_source.hpp"
#include "data/manifest.hpp"
#include "data/prepare.hpp"
#include "data/shard_format.hpp"

namespace perrin::data {

/// All that is known of a dataset before its first shard is written; the same in every process that works on it.
struct PreparePlan {
  ImageShape source_shape;
  std::uint64_t shard_images = 0;  // in every shard but the last
  Manifest manifest;               // without shards

  std::uint64_t num_shards() const { return (manifest.n - 1) / shard_images + 1; }
  std::uint64_t first_of(std::uint64_t shard) const { return shard * shard_images; }
  std::uint64_t images_of(std::uint64_t shard) const;
  ShardAttributes attributes_of(std::uint64_t shard) const;
};

/// @param source_digest  what source.digest() gives
/// @throws DataError for a padding smaller than the images; std::invalid_argument for a source without images
PreparePlan make_plan(const ImageSource& source, const PrepareOptions& options, const std::string& source_digest);

}  // namespace perrin::data
