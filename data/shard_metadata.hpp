#pragma once

#include <cstdint>
#include <string>

#include "data/file.hpp"

namespace perrin::data {

/// What a manifest says of all that is not pixels in a shard: HDF5's structures and the tables.
struct ShardMetadata {
  std::uint64_t images_offset = 0;  // of the bytes of /images
  std::string sha256;               // of the bytes before them, then of those after them

  friend bool operator==(const ShardMetadata&, const ShardMetadata&) = default;
};

/// What a manifest says of a shard's file.
struct ExpectedShard {
  std::uint64_t bytes = 0;
  std::uint64_t images_bytes = 0;  // of /images alone
  ShardMetadata metadata;          // without a SHA-256: the manifest says nothing
};

/// SHA-256 of a shard's bytes around /images.
/// @throws DataError where the file does not hold such /images
std::string metadata_sha256(const File& file, std::uint64_t images_offset, std::uint64_t images_bytes);

/// Refuses a file of another size or with other metadata, before HDF5 sees it: of 20,000 shards with one or two bytes
/// of their metadata changed, 12 made HDF5 1.10.8 read at wild addresses.
/// @throws DataError
void require_expected(const File& file, const ExpectedShard& expected);

}  // namespace perrin::data
