#include "data/shard_metadata.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <vector>

#include "data/data_error.hpp"
#include "data/sha256.hpp"

namespace perrin::data {
namespace {

constexpr std::uint64_t kBlockBytes = std::uint64_t{64} << 10;  // stays in the cache of the core

void require_size(const File& file, std::uint64_t expected) {
  const std::uint64_t size = file.size();
  if (size == expected || size == 0) return;  // what is empty is named so by who reads it
  throw DataError(file.path(), fmt::format("has {} of {} bytes; it is {}: copy it again or prepare the dataset again",
                                           size, expected, size < expected ? "truncated" : "not the file it was"));
}

void hash_range(Sha256& hash, const File& file, std::uint64_t first, std::uint64_t end) {
  std::vector<std::byte> block(std::min(kBlockBytes, end - first));
  while (first < end) {
    const auto here = std::span(block).first(std::min<std::uint64_t>(block.size(), end - first));
    file.pread_exact(here, first);
    hash.update(here);
    first += here.size();
  }
}

}  // namespace

std::string metadata_sha256(const File& file, std::uint64_t images_offset, std::uint64_t images_bytes) {
  const std::uint64_t size = file.size();
  if (images_bytes > size || images_offset > size - images_bytes) {
    throw DataError(file.path(), fmt::format("of {} bytes cannot hold the {} bytes of /images at byte {} that the "
                                             "manifest tells of; restore both",
                                             size, images_bytes, images_offset));
  }
  Sha256 hash;
  hash_range(hash, file, 0, images_offset);
  hash_range(hash, file, images_offset + images_bytes, size);
  return hash.hex();
}

void require_expected(const File& file, const ExpectedShard& expected) {
  require_size(file, expected.bytes);
  if (expected.metadata.sha256.empty() || file.size() == 0) return;
  const std::string found = metadata_sha256(file, expected.metadata.images_offset, expected.images_bytes);
  if (found == expected.metadata.sha256) return;
  throw DataError(file.path(),
                  fmt::format("is damaged outside its pixels, or is another shard: SHA-256 of its metadata "
                              "{}, {} by the manifest; restore it or prepare the dataset again",
                              found, expected.metadata.sha256));
}

}  // namespace perrin::data
