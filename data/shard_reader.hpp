#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/file.hpp"
#include "data/mapped_file.hpp"
#include "data/read_method.hpp"
#include "data/shard_format.hpp"
#include "data/shard_metadata.hpp"

namespace perrin::data {

/// One shard, read without HDF5: opening examines it, every image is then one copy and one checksum.
/// Reading is safe from any number of threads.
class ShardReader {
 public:
  /// @param expected  what the manifest says; anything else is an error, before HDF5 opens the file
  /// @throws DataError whatever is not exactly a shard of format version 1
  explicit ShardReader(const std::filesystem::path& path, std::optional<ExpectedShard> expected = std::nullopt,
                       ReadMethod method = ReadMethod::mmap, Verify verify = Verify::reads);

  std::uint64_t size() const noexcept { return layout_.images; }
  const ImageShape& shape() const noexcept { return layout_.shape; }
  const ShardAttributes& attributes() const noexcept { return attributes_; }
  /// Once they are compared: 1,000 names in each of 2,000 shards are 100 MiB.
  void forget_class_names() noexcept { attributes_.class_names = std::vector<std::string>(); }
  const ShardLayout& layout() const noexcept { return layout_; }
  const std::filesystem::path& path() const noexcept { return file_.path(); }

  /// Copies images [first, first + count) into `pixels`, uint8 [count, C, H, W], and verifies each unless told not to.
  /// @throws DataError naming file, image, stored and found checksum; std::out_of_range, std::invalid_argument
  void read(std::uint64_t first, std::uint64_t count, std::span<std::uint8_t> pixels) const;

  /// Starts bringing an image from the mapping into the caches of this core: called one image ahead, it hides most of
  /// the wait for memory. Nothing for ReadMethod::pread.
  void prefetch(std::uint64_t index) const noexcept;

  /// Has the kernel read all of it into the page cache; returns at once.
  void read_ahead() const noexcept { file_.read_ahead(0, 0); }
  /// The same for one image.
  void read_ahead(std::uint64_t index) const noexcept;

  /// -1 where the image has none.
  std::int32_t label(std::uint64_t index) const { return labels_.at(index); }

  /// Number of the image in the source that the dataset was made from.
  std::uint64_t source_id(std::uint64_t index) const;

 private:
  void fetch(std::span<std::byte> into, std::uint64_t offset) const;
  void verify(std::uint64_t image, std::span<const std::byte> bytes) const;

  File file_;
  std::optional<MappedFile> map_;  // ReadMethod::mmap only
  Verify verify_;
  ShardLayout layout_;
  ShardAttributes attributes_;
  std::vector<std::int32_t> labels_;
  std::vector<std::uint32_t> crc32c_;
};

}  // namespace perrin::data
