#include "data/prepare.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "data/data_error.hpp"
#include "data/dataset.hpp"
#include "data/directory_lock.hpp"
#include "data/file.hpp"
#include "data/sample_order.hpp"
#include "data/sha256.hpp"
#include "data/shard_format.hpp"
#include "data/shard_reader.hpp"
#include "data/shard_writer.hpp"

namespace perrin::data {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kShardTargetBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kWriteBlockBytes = std::uint64_t{1} << 20;

/// Keeps the order on disk unlike the order of a training run that happens to use the same seed.
constexpr std::uint64_t kStorageSeedMask = 0x70726570617265;  // "prepare"

constexpr std::string_view kUnfinished = ".unfinished";  // ends the name of a shard that is being written

std::string shard_name(std::uint64_t index) { return fmt::format("shard-{:05}.h5", index); }

bool is_whole_shard(const fs::path& path) { return path.extension() == ".h5"; }

ImageShape padded(const ImageShape& shape, const PrepareOptions& options) {
  const std::uint32_t pad = options.pad;
  if (pad == 0) return shape;
  if (pad < shape.height || pad < shape.width || !is_plausible(shape.channels, pad, pad)) {
    throw DataError(options.output, fmt::format("images of {} x {} cannot be padded to {}; choose a size from {} on",
                                                shape.height, shape.width, pad, std::max(shape.height, shape.width)));
  }
  return {shape.channels, pad, pad};
}

/// Copies an image into the middle of a larger one, whose border is zero already; odd space goes to bottom and right.
void place(std::span<const std::uint8_t> image, const ImageShape& from, std::span<std::uint8_t> canvas,
           const ImageShape& to) {
  const std::size_t top = (to.height - from.height) / 2;
  const std::size_t left = (to.width - from.width) / 2;
  for (std::size_t c = 0; c < from.channels; ++c) {
    for (std::size_t y = 0; y < from.height; ++y) {
      const auto row = image.subspan((c * from.height + y) * from.width, from.width);
      std::copy(row.begin(), row.end(),
                canvas.begin() + static_cast<std::ptrdiff_t>((c * to.height + top + y) * to.width + left));
    }
  }
}

/// A UUID of version 8 (RFC 9562) from a digest: the name of a dataset is a function of its contents.
std::string uuid_of(const std::string& digest) {
  std::string hex = digest.substr(0, 32);
  hex[12] = '8';
  hex[16] = "89ab"[std::stoi(hex.substr(16, 1), nullptr, 16) % 4];
  return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4), hex.substr(16, 4),
                     hex.substr(20, 12));
}

/// All that is known before the first shard is written.
struct Plan {
  ImageShape source_shape;
  std::uint64_t shard_images = 0;
  Manifest manifest;  // without shards
};

Plan make_plan(const ImageSource& source, const PrepareOptions& options) {
  if (source.size() == 0) throw std::invalid_argument("prepare: the source has no images");
  Plan plan;
  plan.source_shape = source.shape();
  Manifest& manifest = plan.manifest;
  manifest.n = source.size();
  manifest.shape = padded(plan.source_shape, options);
  plan.shard_images = options.shard_images != 0
                          ? options.shard_images
                          : std::max<std::uint64_t>(1, kShardTargetBytes / manifest.shape.bytes());
  manifest.class_names = source.class_names();
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
  manifest.converter = fmt::format("perrin prepare ({})", source.kind());
  manifest.transform = source.transform();
  if (options.pad != 0) {
    const std::string pad = fmt::format("pad {}x{} to {}x{} with 0", plan.source_shape.height, plan.source_shape.width,
                                        options.pad, options.pad);
    manifest.transform = manifest.transform == "none" ? pad : manifest.transform + ", " + pad;
  }
  manifest.shuffle_algorithm = SampleOrder::kAlgorithm;
  manifest.shuffle_seed = options.shuffle_seed;

  std::string identity =
      fmt::format("{} {}\n{}\n{}\n{} {}\n{}\n", kDatasetFormat, kFormatVersion, source.digest(), manifest.transform,
                  manifest.shuffle_algorithm, manifest.shuffle_seed, std::min(plan.shard_images, manifest.n));
  for (const std::string& name : manifest.class_names) identity += fmt::format("{} {}\n", name.size(), name);
  manifest.uuid = uuid_of(sha256_hex(identity));
  return plan;
}

/// The finished dataset of an earlier run, if the output holds exactly the one that would be written.
bool is_there(const fs::path& output, const Manifest& wanted) {
  std::error_code ignored;
  const fs::file_status status = fs::symlink_status(output, ignored);
  if (!fs::exists(status)) return false;
  if (fs::is_directory(status) && fs::is_empty(output, ignored)) return false;
  if (!fs::is_directory(fs::status(output, ignored)) || !fs::exists(output / kManifestName, ignored)) {
    throw DataError(output, "exists and is not a dataset; nothing was overwritten: choose another output or remove it");
  }
  const Manifest found = read_manifest(output);
  if (found.uuid != wanted.uuid) {
    throw DataError(output, fmt::format("holds another dataset (or the same with other options): {} images, uuid {}; "
                                        "nothing was overwritten: choose another output or remove it",
                                        found.n, found.uuid));
  }
  static_cast<void>(Dataset(output));  // throws, naming the shard, if it is no longer whole
  return true;
}

/// A folder beside the output in which the dataset grows. It stays while it holds whole shards, for the next run.
class Staging {
 public:
  explicit Staging(const fs::path& output)
      : output_(output), folder_(sibling(output, ".partial")), lock_(lock_beside(output)) {
    remove_unfinished();
    fs::create_directory(folder_);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging() {
    std::error_code ignored;
    if (published_) return;
    const fs::directory_iterator entries(folder_, ignored);
    if (std::none_of(begin(entries), end(entries), [](const auto& entry) { return is_whole_shard(entry.path()); })) {
      fs::remove_all(folder_, ignored);
    }
  }

  const fs::path& folder() const { return folder_; }

  void publish() {
    sync_folder(folder_);
    rename_durably(folder_, output_);
    published_ = true;
  }

 private:
  static fs::path sibling(const fs::path& output, std::string_view suffix) {
    return output.parent_path() / fmt::format(".{}{}", output.filename().string(), suffix);
  }

  static DirectoryLock lock_beside(const fs::path& output) {
    std::error_code error;
    fs::create_directories(output.parent_path(), error);
    if (error) throw DataError(output.parent_path(), fmt::format("cannot create: {}", describe_errno(error.value())));
    return DirectoryLock(output.parent_path(), sibling(output, ".lock").filename(),
                         DirectoryLock::OnRelease::remove_file);
  }

  /// Of a run that was stopped; only what such a run writes is removed, and shards that are whole stay.
  void remove_unfinished() const {
    std::error_code ignored;
    if (!fs::exists(fs::symlink_status(folder_, ignored))) return;
    std::vector<fs::path> unfinished;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename();
      if (!name.starts_with("shard-") && !name.starts_with(kManifestName)) {
        throw DataError(entry.path(), "is no part of an unfinished dataset; move it elsewhere, then start again");
      }
      if (!is_whole_shard(entry.path())) unfinished.push_back(entry.path());
    }
    for (const fs::path& path : unfinished) fs::remove(path);
  }

  fs::path output_;
  fs::path folder_;
  DirectoryLock lock_;
  bool published_ = false;
};

class Writer {
 public:
  Writer(const ImageSource& source, const Plan& plan, const fs::path& folder, const PrepareProgress& progress)
      : source_(source),
        plan_(plan),
        folder_(folder),
        progress_(progress),
        order_(plan.manifest.n, plan.manifest.shuffle_seed ^ kStorageSeedMask) {}

  Manifest write() {
    Manifest manifest = plan_.manifest;
    const std::uint64_t num_shards = (manifest.n - 1) / plan_.shard_images + 1;
    for (std::uint64_t index = 0; index < num_shards; ++index)
      manifest.shards.push_back(write_shard(index, num_shards));
    write_file_durably(folder_ / kManifestName, to_json(manifest));
    return manifest;
  }

 private:
  ShardEntry write_shard(std::uint64_t index, std::uint64_t num_shards) {
    const std::uint64_t first = index * plan_.shard_images;
    const std::uint64_t count = std::min(plan_.shard_images, plan_.manifest.n - first);
    std::vector<std::uint64_t> source_ids(count);
    order_.fill(first, source_ids);
    std::vector<std::int32_t> labels(count);
    std::transform(source_ids.begin(), source_ids.end(), labels.begin(),
                   [this](std::uint64_t id) { return source_.label(id); });

    const Manifest& manifest = plan_.manifest;
    const ShardAttributes attributes{
        manifest.uuid,        index, num_shards, manifest.class_names, manifest.converter, manifest.transform,
        manifest.shuffle_seed};
    const fs::path path = folder_ / shard_name(index);
    if (!is_whole(path, count, attributes)) {
      const fs::path unfinished = path.string() + std::string(kUnfinished);
      ShardWriter writer(unfinished, manifest.shape, labels, source_ids, attributes);
      append_images(writer, source_ids, first);
      writer.finish();
      rename_durably(unfinished, path);
    } else if (progress_) {
      progress_(first + count, manifest.n);
    }
    const std::uint64_t images_offset = ShardReader(path).layout().images_offset;
    const std::string metadata =
        metadata_sha256(File::open_for_reading(path), images_offset, count * manifest.shape.bytes());
    return {shard_name(index), count, fs::file_size(path), sha256_of_file(path), {images_offset, metadata}};
  }

  /// Whether an earlier run wrote this very shard: its UUID stands for source, transform, order and division. Anything
  /// else in its place, also of another dataset, is removed.
  static bool is_whole(const fs::path& path, std::uint64_t count, const ShardAttributes& wanted) {
    if (!fs::exists(fs::symlink_status(path))) return false;
    try {
      const ShardReader shard(path);
      const ShardAttributes& found = shard.attributes();
      if (found.dataset_uuid == wanted.dataset_uuid && found.shard_index == wanted.shard_index &&
          found.num_shards == wanted.num_shards && shard.size() == count) {
        std::vector<std::uint8_t> pixels(shard.shape().bytes());
        for (std::uint64_t i = 0; i < count; ++i) shard.read(i, 1, pixels);  // compares the checksums
        return true;
      }
    } catch (const DataError&) {  // damaged since: it is written again
    }
    fs::remove(path);
    return false;
  }

  void append_images(ShardWriter& writer, std::span<const std::uint64_t> source_ids, std::uint64_t done) {
    const std::size_t image_bytes = plan_.manifest.shape.bytes();
    const std::uint64_t block = std::max<std::uint64_t>(1, kWriteBlockBytes / image_bytes);
    std::vector<std::uint8_t> pixels(std::min<std::uint64_t>(block, source_ids.size()) * image_bytes);
    std::vector<std::uint8_t> image(plan_.source_shape.bytes());
    while (!source_ids.empty()) {
      const std::uint64_t here = std::min<std::uint64_t>(block, source_ids.size());
      for (std::uint64_t i = 0; i < here; ++i) {
        source_.read(source_ids[i], image);
        place(image, plan_.source_shape, std::span(pixels).subspan(i * image_bytes, image_bytes), plan_.manifest.shape);
      }
      writer.append(std::span(pixels).first(here * image_bytes));
      source_ids = source_ids.subspan(here);
      done += here;
      if (progress_) progress_(done, plan_.manifest.n);
    }
  }

  const ImageSource& source_;
  const Plan& plan_;
  const fs::path& folder_;
  const PrepareProgress& progress_;
  SampleOrder order_;
};

}  // namespace

PrepareOutcome prepare(const ImageSource& source, const PrepareOptions& options, const PrepareProgress& progress) {
  const Plan plan = make_plan(source, options);
  fs::path output = fs::absolute(options.output).lexically_normal();
  if (!output.has_filename()) output = output.parent_path();  // "data/" means the folder, not a nameless file in it
  if (is_there(output, plan.manifest)) return {read_manifest(output), /*was_there=*/true};
  Staging staging(output);
  Manifest manifest = Writer(source, plan, staging.folder(), progress).write();
  staging.publish();
  return {std::move(manifest), /*was_there=*/false};
}

}  // namespace perrin::data
