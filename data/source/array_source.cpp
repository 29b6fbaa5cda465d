#include "data/source/array_source.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <utility>

#include "data/data_error.hpp"
#include "data/sha256.hpp"

namespace perrin::data {

void require_names_for(const std::filesystem::path& file, const std::vector<std::int32_t>& labels,
                       const std::vector<std::string>& class_names) {
  if (class_names.empty() || labels.empty()) return;
  const std::int32_t largest = *std::max_element(labels.begin(), labels.end());
  if (largest >= 0 && static_cast<std::size_t>(largest) >= class_names.size()) {
    throw DataError(file, fmt::format("has label {}, but {} class names were given; name every class", largest,
                                      class_names.size()));
  }
}

ArraySource::ArraySource(ImageArray array) : array_(std::move(array)) {
  if (array_.pixels.size() != array_.labels.size() * array_.shape.bytes()) {
    throw std::invalid_argument("ArraySource: pixels and labels differ in number");
  }
  require_names_for(array_.file, array_.labels, array_.class_names);
}

Picture ArraySource::read(std::uint64_t index) const {
  if (index >= size()) throw std::out_of_range("ArraySource::read: beyond the last image");
  const std::size_t bytes = array_.shape.bytes();
  const auto first = array_.pixels.begin() + static_cast<std::ptrdiff_t>(index * bytes);
  return {array_.shape, /*has_alpha=*/false, {first, first + static_cast<std::ptrdiff_t>(bytes)}};
}

std::string ArraySource::name(std::uint64_t index) const {
  return fmt::format("{}: image {}", array_.file.string(), index);
}

std::string ArraySource::digest() const {
  if (!array_.digest.empty()) return array_.digest;
  const ImageShape& shape = array_.shape;
  Sha256 hash;
  hash.update(fmt::format("{} {} {} {} {}\n", array_.kind, size(), shape.channels, shape.height, shape.width));
  hash.update(std::as_bytes(std::span(array_.pixels))).update(std::as_bytes(std::span(array_.labels)));
  return hash.hex();
}

}  // namespace perrin::data
