#include "data/prepare_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "data/data_error.hpp"
#include "data/sample_order.hpp"
#include "data/sha256.hpp"

namespace perrin::data {
namespace {

constexpr std::uint64_t kShardTargetBytes = std::uint64_t{1} << 30;

ImageShape padded(const ImageShape& shape, const PrepareOptions& options) {
  const std::uint32_t pad = options.pad;
  if (pad == 0) return shape;
  if (pad < shape.height || pad < shape.width || !is_plausible(shape.channels, pad, pad)) {
    throw DataError(options.output, fmt::format("images of {} x {} cannot be padded to {}; choose a size from {} on",
                                                shape.height, shape.width, pad, std::max(shape.height, shape.width)));
  }
  return {shape.channels, pad, pad};
}

/// A UUID of version 8 (RFC 9562) from a digest: the name of a dataset is a function of its contents.
std::string uuid_of(const std::string& digest) {
  std::string hex = digest.substr(0, 32);
  hex[12] = '8';
  hex[16] = "89ab"[std::stoi(hex.substr(16, 1), nullptr, 16) % 4];
  return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4), hex.substr(16, 4),
                     hex.substr(20, 12));
}

void count_labels(const ImageSource& source, Manifest& manifest) {
  manifest.class_histogram.resize(manifest.class_names.size());
  for (std::uint64_t i = 0; i < manifest.n; ++i) {
    const std::int32_t label = source.label(i);
    if (label == kNoLabel) {
      ++manifest.unlabelled;
      continue;
    }
    const auto index = static_cast<std::size_t>(label);
    if (index >= manifest.class_histogram.size()) manifest.class_histogram.resize(index + 1);
    ++manifest.class_histogram[index];
  }
}

}  // namespace

std::uint64_t PreparePlan::images_of(std::uint64_t shard) const {
  return std::min(shard_images, manifest.n - first_of(shard));
}

ShardAttributes PreparePlan::attributes_of(std::uint64_t shard) const {
  return {manifest.uuid,        shard, num_shards(), manifest.class_names, manifest.converter, manifest.transform,
          manifest.shuffle_seed};
}

PreparePlan make_plan(const ImageSource& source, const PrepareOptions& options, const std::string& source_digest) {
  if (source.size() == 0) throw std::invalid_argument("prepare: the source has no images");
  PreparePlan plan;
  plan.source_shape = source.shape();
  Manifest& manifest = plan.manifest;
  manifest.n = source.size();
  manifest.shape = padded(plan.source_shape, options);
  plan.shard_images = options.shard_images != 0
                          ? options.shard_images
                          : std::max<std::uint64_t>(1, kShardTargetBytes / manifest.shape.bytes());
  manifest.class_names = source.class_names();
  count_labels(source, manifest);
  manifest.converter = fmt::format("perrin prepare ({})", source.kind());
  manifest.transform = source.transform();
  if (options.pad != 0) {
    const std::string pad = fmt::format("pad {}x{} to {}x{} with 0", plan.source_shape.height, plan.source_shape.width,
                                        options.pad, options.pad);
    manifest.transform = manifest.transform == "none" ? pad : manifest.transform + ", " + pad;
  }
  manifest.shuffle_algorithm = options.keep_order ? kKeptOrder : SampleOrder::kAlgorithm;
  manifest.shuffle_seed = options.keep_order ? 0 : options.shuffle_seed;

  std::string identity =
      fmt::format("{} {}\n{}\n{}\n{} {}\n{}\n", kDatasetFormat, kFormatVersion, source_digest, manifest.transform,
                  manifest.shuffle_algorithm, manifest.shuffle_seed, std::min(plan.shard_images, manifest.n));
  for (const std::string& name : manifest.class_names) identity += fmt::format("{} {}\n", name.size(), name);
  manifest.uuid = uuid_of(sha256_hex(identity));
  return plan;
}

}  // namespace perrin::data
