#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/image_shape.hpp"

namespace perrin::data {

// The names and numbers of shard format version 1; docs/format.md is the specification.
inline constexpr std::uint32_t kFormatVersion = 1;
inline constexpr std::string_view kShardFormat = "perrin-shard";
inline constexpr std::string_view kDatasetFormat = "perrin-dataset";
inline constexpr std::string_view kLayout = "NCHW";
inline constexpr std::string_view kValueRange = "0..255";
inline constexpr std::int32_t kNoLabel = -1;
inline constexpr std::uint64_t kImageAlignmentBytes = std::uint64_t{1} << 20;

/// The root attributes of a shard.
struct ShardAttributes {
  std::string dataset_uuid;
  std::uint64_t shard_index = 0;
  std::uint64_t num_shards = 1;
  std::vector<std::string> class_names;  // empty: unknown
  std::string converter;                 // program and source that wrote it
  std::string transform;                 // what was done to the pixels; "none"
  std::uint64_t shuffle_seed = 0;
};

/// Where the bytes of a valid shard lie: all that is needed once HDF5 has closed it.
struct ShardLayout {
  std::uint64_t images = 0;
  ImageShape shape;
  std::uint64_t images_offset = 0;     // uint8 [images, C, H, W]
  std::uint64_t labels_offset = 0;     // int32 [images]
  std::uint64_t source_id_offset = 0;  // uint64 [images]
  std::uint64_t crc32c_offset = 0;     // uint32 [images]
  std::uint32_t labels_crc32c = 0;     // of the bytes of /labels
  std::uint32_t source_id_crc32c = 0;  // of the bytes of /source_id
};

}  // namespace perrin::data
