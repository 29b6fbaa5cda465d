#include "data/shard_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <tuple>

#include "data/crc32c.hpp"
#include "data/data_error.hpp"
#include "data/guarded_copy.hpp"
#include "data/shard_opener.hpp"

namespace perrin::data {
namespace {

static_assert(std::endian::native == std::endian::little,
              "shards store little-endian integers and are read as they are");

constexpr std::uint64_t kSourceIdBlock = 128 * 1024;  // entries, 1 MiB

constexpr std::size_t kCacheLine = 64;
/// What the core's own prefetcher does not foresee: the start of an image. It is a whole one of 3 x 32 x 32.
constexpr std::size_t kPrefetchBytes = 4096;

constexpr const char* kChangedRemedy =
    "The file changed after it was written; restore it or prepare the dataset again.";

File open_expected(const std::filesystem::path& path, const std::optional<ExpectedShard>& expected) {
  File file = File::open_for_reading(path, Symlinks::refuse);
  if (expected) require_expected(file, *expected);
  return file;
}

template <class T>
std::vector<T> read_table(const File& file, std::uint64_t offset, std::uint64_t count) {
  std::vector<T> table(count);
  file.pread_exact(std::as_writable_bytes(std::span(table)), offset);
  return table;
}

void require_checksum(const File& file, const char* table, std::uint32_t stored, std::uint32_t found) {
  if (stored == found) return;
  throw DataError(file.path(), fmt::format("/{} fails its checksum (stored {:08x}, read {:08x}). {}", table, stored,
                                           found, kChangedRemedy));
}

/// Source ids are rarely asked for: verified once, not kept (8 bytes an image on every rank).
void verify_source_ids(const File& file, const ShardLayout& layout) {
  std::uint32_t found = 0;
  for (std::uint64_t i = 0; i < layout.images; i += kSourceIdBlock) {
    const auto block = read_table<std::uint64_t>(file, layout.source_id_offset + i * sizeof(std::uint64_t),
                                                 std::min(kSourceIdBlock, layout.images - i));
    found = crc32c(std::as_bytes(std::span(block)), found);
  }
  require_checksum(file, "source_id", layout.source_id_crc32c, found);
}

}  // namespace

ShardReader::ShardReader(const std::filesystem::path& path, std::optional<ExpectedShard> expected, ReadMethod method,
                         Verify verify)
    : file_(open_expected(path, expected)), verify_(verify) {
  std::tie(layout_, attributes_) = examine_shard(file_);
  if (expected && !expected->metadata.sha256.empty() && layout_.images_offset != expected->metadata.images_offset) {
    throw DataError(path, fmt::format("has /images at byte {}, {} by the manifest; restore both or prepare the dataset "
                                      "again",
                                      layout_.images_offset, expected->metadata.images_offset));
  }
  labels_ = read_table<std::int32_t>(file_, layout_.labels_offset, layout_.images);
  crc32c_ = read_table<std::uint32_t>(file_, layout_.crc32c_offset, layout_.images);
  require_checksum(file_, "labels", layout_.labels_crc32c, crc32c(std::as_bytes(std::span(labels_))));
  verify_source_ids(file_, layout_);
  if (method == ReadMethod::mmap) map_.emplace(file_);
}

void ShardReader::fetch(std::span<std::byte> into, std::uint64_t offset) const {
  if (map_ && guarded_copy(into, map_->bytes().data() + offset)) return;
  file_.pread_exact(into, offset);  // where the mapping had no such page, this says why
}

void ShardReader::verify(std::uint64_t image, std::span<const std::byte> bytes) const {
  const std::uint32_t found = crc32c(bytes);
  if (found == crc32c_[image]) return;
  const std::uint64_t offset = layout_.images_offset + image * bytes.size();
  // Of a file cut short, the mapping shows zeros up to the end of the page; pread says that they are not there.
  std::vector<std::byte> again(bytes.size());
  file_.pread_exact(again, offset);
  throw DataError(path(), offset,
                  fmt::format("image {} fails its checksum (stored {:08x}, read {:08x}). {}", image, crc32c_[image],
                              found, kChangedRemedy));
}

void ShardReader::read(std::uint64_t first, std::uint64_t count, std::span<std::uint8_t> pixels) const {
  if (first > size() || count > size() - first) throw std::out_of_range("ShardReader::read: beyond the last image");
  const std::size_t image_bytes = shape().bytes();
  if (pixels.size() != count * image_bytes) throw std::invalid_argument("ShardReader::read: wrong buffer size");
  // A mapping costs nothing a call, and the checksum finds each image in the cache; a system call takes all at once.
  const std::uint64_t piece = map_ ? 1 : count;
  auto bytes = std::as_writable_bytes(pixels);
  for (std::uint64_t image = first; image < first + count; ++image) {
    if ((image - first) % piece == 0)
      fetch(bytes.first(piece * image_bytes), layout_.images_offset + image * image_bytes);
    if (verify_ == Verify::reads) verify(image, bytes.first(image_bytes));
    bytes = bytes.subspan(image_bytes);
  }
}

void ShardReader::prefetch(std::uint64_t index) const noexcept {
  if (!map_) return;
  const std::size_t image_bytes = shape().bytes();
  const std::byte* image = map_->bytes().data() + layout_.images_offset + index * image_bytes;
  for (std::size_t i = 0; i < std::min(image_bytes, kPrefetchBytes); i += kCacheLine) __builtin_prefetch(image + i);
}

void ShardReader::read_ahead(std::uint64_t index) const noexcept {
  file_.read_ahead(layout_.images_offset + index * shape().bytes(), shape().bytes());
}

std::uint64_t ShardReader::source_id(std::uint64_t index) const {
  if (index >= size()) throw std::out_of_range("ShardReader::source_id: beyond the last image");
  return read_table<std::uint64_t>(file_, layout_.source_id_offset + index * sizeof(std::uint64_t), 1).front();
}

}  // namespace perrin::data
