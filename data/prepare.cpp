#include "data/prepare.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "data/data_error.hpp"
#include "data/dataset.hpp"
#include "data/prepare_plan.hpp"
#include "data/sample_order.hpp"
#include "data/shard_writer.hpp"
#include "data/staged_shard.hpp"
#include "data/staging_folder.hpp"

namespace perrin::data {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kProgressBytes = std::uint64_t{1} << 20;  // of images between two reports

/// Keeps the order on disk unlike the order of a training run that happens to use the same seed.
constexpr std::uint64_t kStorageSeedMask = 0x70726570617265;  // "prepare"

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

/// Whether the output holds exactly the dataset that would be written.
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

/// "data/" means the folder, not a nameless file in it.
fs::path without_slash(const fs::path& output) {
  const fs::path absolute = fs::absolute(output).lexically_normal();
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

/// Numbers in the source of the images stored as samples [first, first + count).
std::vector<std::uint64_t> stored_order(const Manifest& manifest, std::uint64_t first, std::uint64_t count) {
  std::vector<std::uint64_t> source_ids(count);
  if (manifest.shuffle_algorithm == kKeptOrder) {
    std::iota(source_ids.begin(), source_ids.end(), first);
  } else {
    SampleOrder(manifest.n, manifest.shuffle_seed ^ kStorageSeedMask).fill(first, source_ids);
  }
  return source_ids;
}

}  // namespace

Preparation::Preparation(const ImageSource& source, const PrepareOptions& options, const std::string& source_digest)
    : source_(source),
      output_(without_slash(options.output)),
      plan_(std::make_unique<const PreparePlan>(make_plan(source, options, source_digest))) {}

Preparation::Preparation(Preparation&&) noexcept = default;
Preparation::~Preparation() = default;

const Manifest& Preparation::wanted() const noexcept { return plan_->manifest; }

std::uint64_t Preparation::num_shards() const noexcept { return plan_->num_shards(); }

bool Preparation::begin() {
  if (is_there(output_, plan_->manifest)) return true;
  staging_ = std::make_unique<StagingFolder>(output_);
  return false;
}

void Preparation::write(const Part& part, const std::function<void(std::uint64_t done)>& progress) const {
  const fs::path folder = StagingFolder::path_for(output_);
  if (!fs::is_directory(folder)) {
    throw DataError(folder,
                    "is not seen here; every process must see the output's folder, on a file system they share");
  }
  std::uint64_t done = 0;
  for (std::uint64_t index = part.index; index < num_shards(); index += part.count) {
    const std::uint64_t images = plan_->images_of(index);
    if (has_settled_shard(folder, images, plan_->attributes_of(index))) {
      progress(done + images);
    } else {
      write_shard(index, done, progress);
      settle_shard(folder, index);
    }
    done += images;
  }
}

void Preparation::write_shard(std::uint64_t index, std::uint64_t done,
                              const std::function<void(std::uint64_t done)>& progress) const {
  const Manifest& manifest = plan_->manifest;
  const std::vector<std::uint64_t> source_ids = stored_order(manifest, plan_->first_of(index), plan_->images_of(index));
  std::vector<std::int32_t> labels(source_ids.size());
  std::transform(source_ids.begin(), source_ids.end(), labels.begin(),
                 [this](std::uint64_t id) { return source_.label(id); });
  ShardWriter writer(unfinished_shard(StagingFolder::path_for(output_), index), manifest.shape, labels, source_ids,
                     plan_->attributes_of(index));

  // In the order of the source: what is compressed in blocks is unpacked once a shard, not once an image.
  std::vector<std::uint64_t> places(source_ids.size());
  std::iota(places.begin(), places.end(), std::uint64_t{0});
  std::sort(places.begin(), places.end(),
            [&](std::uint64_t a, std::uint64_t b) { return source_ids[a] < source_ids[b]; });
  const std::uint64_t block = std::max<std::uint64_t>(1, kProgressBytes / manifest.shape.bytes());
  std::vector<std::uint8_t> image(plan_->source_shape.bytes()), canvas(manifest.shape.bytes());
  for (std::uint64_t i = 0; i < places.size(); ++i) {
    source_.read(source_ids[places[i]], image);
    place(image, plan_->source_shape, canvas, manifest.shape);
    writer.write(places[i], canvas);
    if ((i + 1) % block == 0 || i + 1 == places.size()) progress(done + i + 1);
  }
  writer.finish();
}

Manifest Preparation::publish() {
  Manifest manifest = plan_->manifest;
  for (std::uint64_t index = 0; index < num_shards(); ++index)
    manifest.shards.push_back(settled_entry(staging_->path(), index, plan_->images_of(index)));
  staging_->publish(manifest);
  staging_.reset();
  return manifest;
}

PrepareOutcome prepare(const ImageSource& source, const PrepareOptions& options, const PrepareProgress& progress) {
  Preparation preparation(source, options, source.digest());
  if (preparation.begin()) return {read_manifest(options.output), /*was_there=*/true};
  preparation.write({}, [&](std::uint64_t done) {
    if (progress) progress(done, source.size());
  });
  return {preparation.publish(), /*was_there=*/false};
}

}  // namespace perrin::data
