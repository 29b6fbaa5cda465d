#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/image_shape.hpp"
#include "data/shard_metadata.hpp"

namespace perrin::data {

inline constexpr std::string_view kManifestName = "manifest.json";

/// What the manifest says of one shard.
struct ShardEntry {
  std::string path;  // a plain file name in the dataset's folder
  std::uint64_t n = 0;
  std::uint64_t bytes = 0;
  std::string sha256;      // of the file
  ShardMetadata metadata;  // without a SHA-256: not said

  friend bool operator==(const ShardEntry&, const ShardEntry&) = default;
};

/// The contents of manifest.json, written last: a folder without one is not a dataset.
struct Manifest {
  std::string uuid;
  std::uint64_t n = 0;
  ImageShape shape;
  std::vector<std::string> class_names;        // empty: unknown
  std::vector<std::uint64_t> class_histogram;  // images of label 0, 1, ...
  std::uint64_t unlabelled = 0;                // images of label -1
  std::string converter;
  std::string transform;
  std::string shuffle_algorithm;
  std::uint64_t shuffle_seed = 0;
  std::vector<ShardEntry> shards;

  friend bool operator==(const Manifest&, const Manifest&) = default;
};

/// What a dataset is, in 64 hexadecimal digits: SHA-256 over shape, n and every shard's n and SHA-256, in order.
/// A checkpoint stores it, since another dataset under the same name would silently change the run.
std::string fingerprint(const Manifest& manifest);

/// What the manifest says of a shard's file.
ExpectedShard expected_of(const ShardEntry& entry, const ImageShape& shape);

std::string to_json(const Manifest& manifest);

/// @param file  names the source in errors
/// @throws DataError naming the key for anything missing, mistyped or contradictory
Manifest parse_manifest(std::string_view json, const std::filesystem::path& file);

/// Whether a folder has a manifest.json of ours; what else it says is not looked at.
bool is_dataset(const std::filesystem::path& folder);

/// manifest.json of a dataset's folder.
Manifest read_manifest(const std::filesystem::path& folder);

}  // namespace perrin::data
