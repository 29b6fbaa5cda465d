#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "data/file.hpp"
#include "data/shard_format.hpp"

namespace perrin::data {

/// Writes one shard of format version 1: HDF5 lays the file out, then images are written to their places by plain
/// writes, each with its checksum, in any order. A shard counts as written only after finish(); who needs it all or
/// nothing writes into a folder that is renamed afterwards, as prepare() does.
class ShardWriter {
 public:
  /// @param path        must not exist
  /// @param labels      int32 [n], -1 for none; n is the number of images
  /// @param source_ids  uint64 [n]
  /// @throws DataError; std::invalid_argument for empty or unequal tables or an implausible shape
  ShardWriter(const std::filesystem::path& path, const ImageShape& shape, std::span<const std::int32_t> labels,
              std::span<const std::uint64_t> source_ids, const ShardAttributes& attributes);

  /// Writes images [first, first + b), uint8 [b, C, H, W].
  /// @throws DataError; std::invalid_argument for parts of images, or more than there are labels
  void write(std::uint64_t first, std::span<const std::uint8_t> pixels);

  /// Writes the checksums and brings everything to the device.
  /// @throws DataError; std::logic_error if images are missing
  void finish();

 private:
  ShardLayout layout_;
  File file_;
  std::vector<std::uint32_t> crc32c_;
  std::vector<bool> written_;
};

}  // namespace perrin::data
