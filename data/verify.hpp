#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace perrin::data {

/// What verify_dataset() read, and what is wrong.
struct VerifyOutcome {
  std::uint64_t images = 0;  ///< by the manifest
  std::uint64_t bytes = 0;   ///< of all shards, by the manifest
  /// One sentence for each damaged file or image, beginning with the file's name; in the order of the shards.
  std::vector<std::string> damage;
};

/// Called with bytes done and in all, one call at a time, from the threads that read.
using VerifyProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// Reads all of a dataset: the CRC-32C of every image and the SHA-256 of every shard, on `threads` threads. A damaged
/// shard does not keep the others from being read.
/// @throws DataError where there is no readable manifest; std::invalid_argument for zero threads
VerifyOutcome verify_dataset(const std::filesystem::path& folder, std::size_t threads,
                             const VerifyProgress& progress = {});

}  // namespace perrin::data
