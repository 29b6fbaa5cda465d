#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "data/manifest.hpp"
#include "data/shard_reader.hpp"

namespace perrin::data {

struct DatasetOptions {
  ReadMethod read = ReadMethod::mmap;
  Verify verify = Verify::reads;
  /// The kernel is asked to read all shards into the page cache, and goes on with that while they are used.
  bool warm_up = false;
};

/// A folder of shards as one sequence of images. Opening checks the manifest, every shard's size and layout, and that
/// the shards belong together in this order; each image verifies itself when it is read. Opens files read-only,
/// takes no locks. Reading is safe from any number of threads. 8 bytes of memory an image.
class Dataset {
 public:
  /// @throws DataError naming the file that is missing, truncated, foreign, swapped or otherwise unfit
  explicit Dataset(const std::filesystem::path& folder, const DatasetOptions& options = {});

  const std::filesystem::path& folder() const noexcept { return folder_; }
  const Manifest& manifest() const noexcept { return manifest_; }
  std::uint64_t size() const noexcept { return manifest_.n; }
  const ImageShape& shape() const noexcept { return manifest_.shape; }
  const std::vector<std::string>& class_names() const noexcept { return manifest_.class_names; }
  /// See data::fingerprint(); what a checkpoint compares.
  const std::string& fingerprint() const noexcept { return fingerprint_; }

  /// One image, uint8 [C, H, W], verified.
  /// @throws DataError naming shard, image and both checksums; std::out_of_range; std::invalid_argument for the buffer
  void read(std::uint64_t index, std::span<std::uint8_t> pixels) const { read(index, 1, pixels); }
  /// Images [first, first + count), uint8 [count, C, H, W], each verified.
  void read(std::uint64_t first, std::uint64_t count, std::span<std::uint8_t> pixels) const;

  /// Images `samples` in that order, uint8 [samples, C, H, W], each verified; runs of neighbours are read at once.
  void gather(std::span<const std::uint64_t> samples, std::span<std::uint8_t> pixels) const;

  /// Has the kernel begin to read these images; returns at once. Worth its system calls where the storage is read at
  /// all.
  void read_ahead(std::span<const std::uint64_t> samples) const;

  /// -1 where the image has none.
  std::int32_t label(std::uint64_t index) const;
  std::uint64_t source_id(std::uint64_t index) const;

 private:
  struct Place {
    std::size_t shard;
    std::uint64_t index;
  };
  Place locate(std::uint64_t index) const;

  std::filesystem::path folder_;
  Manifest manifest_;
  std::string fingerprint_;
  std::vector<ShardReader> shards_;
  std::vector<std::uint64_t> shard_starts_;  // first image of each shard
};

}  // namespace perrin::data
