#include "data/dataset.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "data/data_error.hpp"

namespace perrin::data {
namespace {

/// A whole shard in the wrong place passes its own checksums, and would move samples.
void require_in_place(const ShardReader& shard, std::size_t index, const Manifest& manifest) {
  const ShardAttributes& attributes = shard.attributes();
  const auto refuse = [&](const std::string& reason) {
    throw DataError(shard.path(), reason + "; restore this dataset or prepare it again");
  };
  if (attributes.dataset_uuid != manifest.uuid) {
    refuse(fmt::format("belongs to dataset {}, not to {}", attributes.dataset_uuid, manifest.uuid));
  }
  if (attributes.shard_index != index || attributes.num_shards != manifest.shards.size()) {
    refuse(fmt::format("is shard {} of {}, where shard {} of {} belongs", attributes.shard_index, attributes.num_shards,
                       index, manifest.shards.size()));
  }
  if (shard.size() != manifest.shards[index].n) {
    refuse(fmt::format("holds {} images, {} by the manifest", shard.size(), manifest.shards[index].n));
  }
  if (shard.shape() != manifest.shape) refuse("has images of another shape than the manifest says");
  if (attributes.class_names != manifest.class_names) refuse("has other class names than the manifest");
}

}  // namespace

Dataset::Dataset(const std::filesystem::path& folder, const DatasetOptions& options)
    : folder_(folder), manifest_(read_manifest(folder)), fingerprint_(data::fingerprint(manifest_)) {
  std::uint64_t start = 0;
  for (const ShardEntry& entry : manifest_.shards) {
    const std::filesystem::path path = folder_ / entry.path;
    std::error_code ignored;
    if (!std::filesystem::exists(std::filesystem::symlink_status(path, ignored))) {
      throw DataError(path, fmt::format("is missing ({} bytes by the manifest); copy it here or prepare the dataset "
                                        "again",
                                        entry.bytes));
    }
    const std::size_t index = shards_.size();
    require_in_place(shards_.emplace_back(path, expected_of(entry, manifest_.shape), options.read, options.verify),
                     index, manifest_);
    shards_.back().forget_class_names();
    shard_starts_.push_back(start);
    start += entry.n;
  }
  if (!options.warm_up) return;
  for (const ShardReader& shard : shards_) shard.read_ahead();
}

Dataset::Place Dataset::locate(std::uint64_t index) const {
  if (index >= size()) throw std::out_of_range("Dataset: beyond the last image");
  const auto after = std::upper_bound(shard_starts_.begin(), shard_starts_.end(), index);
  const auto shard = static_cast<std::size_t>(after - shard_starts_.begin()) - 1;
  return {shard, index - shard_starts_[shard]};
}

void Dataset::read(std::uint64_t first, std::uint64_t count, std::span<std::uint8_t> pixels) const {
  if (first > size() || count > size() - first) throw std::out_of_range("Dataset::read: beyond the last image");
  const std::size_t image_bytes = shape().bytes();
  if (pixels.size() != count * image_bytes) throw std::invalid_argument("Dataset::read: wrong buffer size");
  while (count > 0) {
    const auto [shard, index] = locate(first);
    const std::uint64_t here = std::min(count, shards_[shard].size() - index);
    shards_[shard].read(index, here, pixels.first(here * image_bytes));
    pixels = pixels.subspan(here * image_bytes);
    first += here;
    count -= here;
  }
}

void Dataset::gather(std::span<const std::uint64_t> samples, std::span<std::uint8_t> pixels) const {
  const std::size_t image_bytes = shape().bytes();
  if (pixels.size() != samples.size() * image_bytes) throw std::invalid_argument("Dataset::gather: wrong buffer size");
  while (!samples.empty()) {
    std::size_t run = 1;
    while (run < samples.size() && samples[run] == samples[0] + run) ++run;
    if (run < samples.size()) {
      const auto [shard, index] = locate(samples[run]);
      shards_[shard].prefetch(index);
    }
    read(samples[0], run, pixels.first(run * image_bytes));
    samples = samples.subspan(run);
    pixels = pixels.subspan(run * image_bytes);
  }
}

void Dataset::read_ahead(std::span<const std::uint64_t> samples) const {
  for (const std::uint64_t sample : samples) {
    const auto [shard, index] = locate(sample);
    shards_[shard].read_ahead(index);
  }
}

std::int32_t Dataset::label(std::uint64_t index) const {
  const auto [shard, place] = locate(index);
  return shards_[shard].label(place);
}

std::uint64_t Dataset::source_id(std::uint64_t index) const {
  const auto [shard, place] = locate(index);
  return shards_[shard].source_id(place);
}

}  // namespace perrin::data
