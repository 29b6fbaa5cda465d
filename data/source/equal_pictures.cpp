#include "data/source/equal_pictures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <utility>

#include "data/data_error.hpp"
#include "data/sample_order.hpp"
#include "data/sha256.hpp"

namespace perrin::data {

namespace {

/// Keeps what is held out apart from the orders in which images are stored and visited by the same seed.
constexpr std::uint64_t kHoldOutSeedMask = 0x686f6c646f7574;  // "holdout"

Picture transformed(const PictureSource& source, const Transform& transform, std::uint64_t index) {
  try {
    return transform.apply(source.read(index));
  } catch (const TransformError& error) {
    throw DataError(source.name(index), error.what());
  }
}

}  // namespace

std::vector<UnfitPicture> find_unfit(const PictureSource& source, const Transform& transform, const Part& part,
                                     const std::function<void(std::uint64_t done)>& progress) {
  std::vector<UnfitPicture> unfit;
  std::uint64_t done = 0;
  for (std::uint64_t index = part.index; index < source.size(); index += part.count) {
    try {
      static_cast<void>(transformed(source, transform, index));
    } catch (const DataError& error) {
      unfit.push_back({index, error.what()});
    }
    progress(++done);
  }
  return unfit;
}

EqualPictures::EqualPictures(std::shared_ptr<const PictureSource> source, Transform transform,
                             std::span<const UnfitPicture> left_out)
    : source_(std::move(source)), transform_(std::move(transform)) {
  std::vector<bool> is_left_out(source_->size());
  for (const UnfitPicture& picture : left_out) is_left_out.at(picture.index) = true;
  for (std::uint64_t index = 0; index < source_->size(); ++index) {
    if (!is_left_out[index]) images_.push_back(index);
  }
  if (images_.empty()) throw DataError(source_->name(0), "and every other image failed; " + left_out.front().reason);
  shape_ = transformed(*source_, transform_, images_.front()).shape;
}

std::pair<EqualPictures, EqualPictures> EqualPictures::hold_out(std::uint64_t count, std::uint64_t seed) const {
  if (count == 0 || count >= size()) throw std::invalid_argument("hold_out: all images or none are held out");
  std::vector<std::uint64_t> drawn(count);
  SampleOrder(size(), seed ^ kHoldOutSeedMask).fill(0, drawn);
  std::vector<bool> is_held_out(size());
  for (const std::uint64_t index : drawn) is_held_out[index] = true;
  std::pair parts(*this, *this);
  parts.first.images_.clear();
  parts.second.images_.clear();
  for (std::uint64_t i = 0; i < size(); ++i) {
    (is_held_out[i] ? parts.first : parts.second).images_.push_back(images_[i]);
  }
  return parts;
}

std::string EqualPictures::digest() const {
  if (size() == source_->size()) return source_->digest();
  Sha256 hash;
  hash.update(source_->digest() + "\n").update(std::as_bytes(std::span(images_)));
  return hash.hex();
}

std::string EqualPictures::transform() const {
  const std::string before = source_->transform(), now = transform_.description();
  if (before == "none") return now;
  return now == "none" ? before : before + ", " + now;
}

void EqualPictures::read(std::uint64_t index, std::span<std::uint8_t> pixels) const {
  if (pixels.size() != shape_.bytes()) throw std::invalid_argument("EqualPictures::read: wrong buffer size");
  const Picture picture = transformed(*source_, transform_, images_.at(index));
  if (picture.shape.channels != shape_.channels) {
    throw DataError(source_->name(images_[index]),
                    fmt::format("has {} channels, the first image has {}; make them alike with --channels 3 (or 1)",
                                picture.shape.channels, shape_.channels));
  }
  if (picture.shape != shape_) {
    throw DataError(source_->name(images_[index]),
                    fmt::format("is {} x {}, the first image is {} x {} (height x width); make them alike with "
                                "--resolution and --crop",
                                picture.shape.height, picture.shape.width, shape_.height, shape_.width));
  }
  std::copy(picture.pixels.begin(), picture.pixels.end(), pixels.begin());
}

}  // namespace perrin::data
