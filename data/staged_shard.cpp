#include "data/staged_shard.hpp"

#include <fmt/format.h>

#include <string_view>
#include <system_error>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "data/shard_metadata.hpp"
#include "data/shard_reader.hpp"

namespace perrin::data {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kUnfinishedEnding = ".unfinished";
constexpr std::string_view kHashEnding = ".sha256";
constexpr std::uint64_t kHashBytes = 64;

fs::path hash_of(const fs::path& shard) { return shard.string() + std::string(kHashEnding); }

}  // namespace

std::string shard_name(std::uint64_t index) { return fmt::format("shard-{:05}.h5", index); }

fs::path unfinished_shard(const fs::path& folder, std::uint64_t index) {
  return folder / (shard_name(index) + std::string(kUnfinishedEnding));
}

bool is_settled(const fs::path& file) {
  const fs::path extension = file.extension();
  return extension == ".h5" || (extension == kHashEnding && file.stem().extension() == ".h5");
}

void settle_shard(const fs::path& folder, std::uint64_t index) {
  const fs::path unfinished = unfinished_shard(folder, index), shard = folder / shard_name(index);
  write_file_durably(hash_of(shard), sha256_of_file(unfinished));
  rename_durably(unfinished, shard);
}

bool has_settled_shard(const fs::path& folder, std::uint64_t images, const ShardAttributes& wanted) {
  const fs::path shard = folder / shard_name(wanted.shard_index);
  if (!fs::exists(fs::symlink_status(shard))) return false;
  try {
    const ShardReader found(shard, std::nullopt, ReadMethod::pread);
    if (found.attributes().dataset_uuid == wanted.dataset_uuid &&
        found.attributes().shard_index == wanted.shard_index && found.attributes().num_shards == wanted.num_shards &&
        found.size() == images && read_text_file(hash_of(shard), kHashBytes) == sha256_of_file(shard)) {
      return true;
    }
  } catch (const DataError&) {  // damaged since, or without its hash: it is written again
  }
  fs::remove(shard);
  return false;
}

ShardEntry settled_entry(const fs::path& folder, std::uint64_t index, std::uint64_t images) {
  const fs::path shard = folder / shard_name(index);
  std::error_code error;
  const std::uint64_t bytes = fs::file_size(shard, error);
  if (error) {
    throw DataError(shard, fmt::format("should have been written and cannot be found ({}); every process must see the "
                                       "same folder",
                                       error.message()));
  }
  const ShardReader reader(shard, std::nullopt, ReadMethod::pread);
  const std::uint64_t images_offset = reader.layout().images_offset;
  const std::string metadata =
      metadata_sha256(File::open_for_reading(shard), images_offset, images * reader.shape().bytes());
  return {shard_name(index), images, bytes, read_text_file(hash_of(shard), kHashBytes), {images_offset, metadata}};
}

}  // namespace perrin::data
