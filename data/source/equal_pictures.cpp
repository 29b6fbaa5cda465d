#include "data/source/equal_pictures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
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

}  // namespace

EqualPictures::EqualPictures(std::shared_ptr<const PictureSource> source, Transform transform, OnError on_error)
    : source_(std::move(source)), transform_(std::move(transform)), images_(source_->size()) {
  std::iota(images_.begin(), images_.end(), std::uint64_t{0});
  if (on_error == OnError::skip) skip_failures();
  shape_ = transformed(images_.at(0)).shape;
}

void EqualPictures::skip_failures() {
  std::erase_if(images_, [this](std::uint64_t image) {
    try {
      static_cast<void>(transformed(image));
      return false;
    } catch (const DataError& error) {
      skipped_.emplace_back(error.what());
      return true;
    }
  });
  if (images_.empty()) throw DataError(source_->name(0), "and every other image failed; " + skipped_.front());
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

Picture EqualPictures::transformed(std::uint64_t source_index) const {
  try {
    return transform_.apply(source_->read(source_index));
  } catch (const TransformError& error) {
    throw DataError(source_->name(source_index), error.what());
  }
}

void EqualPictures::read(std::uint64_t index, std::span<std::uint8_t> pixels) const {
  if (pixels.size() != shape_.bytes()) throw std::invalid_argument("EqualPictures::read: wrong buffer size");
  const Picture picture = transformed(images_.at(index));
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
