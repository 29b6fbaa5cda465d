#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "data/manifest.hpp"
#include "data/shard_format.hpp"

namespace perrin::data {

// Shards of a dataset that is being made. One under its final name is whole and on the device, and its SHA-256 is in a
// file beside it, so that whoever goes on with the work trusts no byte that was not written.

/// "shard-00007.h5".
std::string shard_name(std::uint64_t index);
/// Under which shard `index` is written.
std::filesystem::path unfinished_shard(const std::filesystem::path& folder, std::uint64_t index);
/// Whether a file of this name is worth keeping when work stops: a settled shard or the hash of one.
bool is_settled(const std::filesystem::path& file);

/// Gives shard `index`, written in full, its final name, after its SHA-256.
void settle_shard(const std::filesystem::path& folder, std::uint64_t index);

/// Whether the folder holds exactly this shard, settled: the UUID in its attributes stands for source, transform, order
/// and division, the SHA-256 for every byte. Anything else in its place is removed.
bool has_settled_shard(const std::filesystem::path& folder, std::uint64_t images, const ShardAttributes& wanted);

/// What the manifest says of a settled shard. @throws DataError if it is not there
ShardEntry settled_entry(const std::filesystem::path& folder, std::uint64_t index, std::uint64_t images);

}  // namespace perrin::data
