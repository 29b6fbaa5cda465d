#include "data/source/hdf5_arrays.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "data/shard_format.hpp"
#include "data/source/array_source.hpp"
#include "data/source/hdf5_file.hpp"

namespace perrin::data {
namespace {

/// The images of one file, and their place among all.
struct Hdf5Part {
  std::filesystem::path file;
  StoredImages images;
  std::uint64_t first = 0;
};

/// Several files one after the other; the one read last is open, with its last block in memory.
class Hdf5Source : public PictureSource {
 public:
  Hdf5Source(std::vector<Hdf5Part> parts, std::vector<std::int32_t> labels, std::vector<std::string> class_names)
      : parts_(std::move(parts)), labels_(std::move(labels)), class_names_(std::move(class_names)) {
    require_names_for(parts_.front().file, labels_, class_names_);
  }

  std::uint64_t size() const override { return labels_.size(); }
  std::int32_t label(std::uint64_t index) const override { return labels_.at(index); }
  std::vector<std::string> class_names() const override { return class_names_; }
  std::string name(std::uint64_t index) const override {
    const Hdf5Part& part = parts_[part_of(index)];
    return fmt::format("{}: image {}", part.file.string(), index - part.first);
  }
  std::string kind() const override { return "hdf5"; }

  Picture read(std::uint64_t index) const override {
    if (index >= size()) throw std::out_of_range("Hdf5Source::read: beyond the last image");
    use(part_of(index));
    const Hdf5Part& part = parts_[used_];
    const ImageShape& shape = part.images.axes.shape;
    std::vector<std::uint8_t> pixels(shape.bytes());
    const std::uint64_t image = index - part.first;
    if (part.images.offset) {
      file_->pread_exact(std::as_writable_bytes(std::span(pixels)), *part.images.offset + image * shape.bytes());
    } else {
      unpack(image / part.images.block_images * part.images.block_images);
      const auto from = block_.begin() + static_cast<std::ptrdiff_t>((image - block_first_) * shape.bytes());
      std::copy_n(from, pixels.size(), pixels.begin());
    }
    if (part.images.axes.layout == Layout::nchw) return {shape, /*has_alpha=*/false, std::move(pixels)};
    return from_interleaved(shape, /*has_alpha=*/false, pixels.data());
  }

  std::string digest() const override {
    const ImageShape& shape = parts_.front().images.axes.shape;
    Sha256 hash;
    hash.update(fmt::format("hdf5 {} {} {} {}\n", size(), shape.channels, shape.height, shape.width));
    for (std::uint64_t i = 0; i < size(); ++i) {
      const Picture picture = read(i);
      hash.update(std::as_bytes(std::span(picture.pixels)));
    }
    return hash.update(std::as_bytes(std::span(labels_))).hex();
  }

 private:
  std::size_t part_of(std::uint64_t index) const {
    const auto after = std::upper_bound(parts_.begin(), parts_.end(), index,
                                        [](std::uint64_t image, const Hdf5Part& part) { return image < part.first; });
    return static_cast<std::size_t>(after - parts_.begin()) - 1;
  }

  void use(std::size_t part) const {
    if (file_ && part == used_) return;
    block_.clear();
    file_.emplace(File::open_for_reading(parts_[part].file));
    used_ = part;
  }

  void unpack(std::uint64_t first) const {
    if (!block_.empty() && block_first_ == first) return;
    const StoredImages& images = parts_[used_].images;
    const std::uint64_t count = std::min(images.block_images, images.axes.images - first);
    block_.resize(count * images.axes.shape.bytes());
    block_first_ = first;
    try {
      Hdf5Arrays(parts_[used_].file).read(images, first, count, block_);
    } catch (...) {
      block_.clear();
      throw;
    }
  }

  std::vector<Hdf5Part> parts_;
  std::vector<std::int32_t> labels_;
  std::vector<std::string> class_names_;
  mutable std::size_t used_ = 0;
  mutable std::optional<File> file_;
  mutable std::uint64_t block_first_ = 0;
  mutable std::vector<std::uint8_t> block_;  // as stored
};

void append_labels(std::vector<std::int32_t>& all, const Hdf5Arrays& arrays, const std::filesystem::path& file,
                   const std::string& key, std::uint64_t images) {
  const std::vector<std::int32_t> labels =
      checked_labels(fmt::format("{}: /{}", file.string(), key), arrays.labels(key), images);
  all.insert(all.end(), labels.begin(), labels.end());
}

}  // namespace

std::unique_ptr<PictureSource> read_hdf5_arrays(std::span<const std::filesystem::path> files,
                                                const ArrayOptions& options, std::vector<std::string> class_names) {
  if (files.empty()) throw std::invalid_argument("read_hdf5_arrays: no file");
  std::vector<Hdf5Part> parts;
  std::vector<std::int32_t> labels;
  for (const std::filesystem::path& file : files) {
    const Hdf5Arrays arrays(file);
    const ArrayKeys keys = choose_arrays(file, arrays.names(), options);
    parts.push_back({file, arrays.images(keys.images, options.layout), labels.size()});
    const ImageAxes &axes = parts.back().images.axes, &first = parts.front().images.axes;
    if (axes.shape != first.shape) {
      throw DataError(file, fmt::format("has images of {}x{}x{}, the first file has {}x{}x{}; prepare them apart",
                                        axes.shape.channels, axes.shape.height, axes.shape.width, first.shape.channels,
                                        first.shape.height, first.shape.width));
    }
    if (keys.labels.empty()) {
      labels.insert(labels.end(), axes.images, kNoLabel);
    } else {
      append_labels(labels, arrays, file, keys.labels, axes.images);
    }
  }
  return std::make_unique<Hdf5Source>(std::move(parts), std::move(labels), std::move(class_names));
}

std::unique_ptr<PictureSource> read_hdf5_pair(const std::filesystem::path& images_file,
                                              const std::filesystem::path& labels_file, const ArrayOptions& options,
                                              std::vector<std::string> class_names) {
  std::vector<Hdf5Part> parts;
  {
    const Hdf5Arrays arrays(images_file);
    const ArrayKeys keys = choose_arrays(images_file, arrays.names(), {options.images_key, {}, options.layout});
    parts.push_back({images_file, arrays.images(keys.images, options.layout)});
  }
  std::vector<std::int32_t> labels;
  const Hdf5Arrays arrays(labels_file);
  append_labels(labels, arrays, labels_file, choose_labels(labels_file, arrays.names(), options),
                parts.front().images.axes.images);
  return std::make_unique<Hdf5Source>(std::move(parts), std::move(labels), std::move(class_names));
}

}  // namespace perrin::data
