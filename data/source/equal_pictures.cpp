#include "data/source/equal_pictures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "data/data_error.hpp"

namespace perrin::data {

EqualPictures::EqualPictures(std::unique_ptr<const PictureSource> source, Transform transform)
    : source_(std::move(source)), transform_(std::move(transform)), shape_(transformed(0).shape) {}

Picture EqualPictures::transformed(std::uint64_t index) const {
  try {
    return transform_.apply(source_->read(index));
  } catch (const TransformError& error) {
    throw DataError(source_->name(index), error.what());
  }
}

void EqualPictures::read(std::uint64_t index, std::span<std::uint8_t> pixels) const {
  if (pixels.size() != shape_.bytes()) throw std::invalid_argument("EqualPictures::read: wrong buffer size");
  const Picture picture = transformed(index);
  if (picture.shape.channels != shape_.channels) {
    throw DataError(source_->name(index),
                    fmt::format("has {} channels, the first image has {}; make them alike with --channels 3 (or 1)",
                                picture.shape.channels, shape_.channels));
  }
  if (picture.shape != shape_) {
    throw DataError(source_->name(index),
                    fmt::format("is {} x {}, the first image is {} x {} (height x width); make them alike with "
                                "--resolution and --crop",
                                picture.shape.height, picture.shape.width, shape_.height, shape_.width));
  }
  std::copy(picture.pixels.begin(), picture.pixels.end(), pixels.begin());
}

}  // namespace perrin::data
