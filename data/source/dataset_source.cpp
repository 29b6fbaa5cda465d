#include "data/source/dataset_source.hpp"

#include <fmt/format.h>

#include "data/sha256.hpp"

namespace perrin::data {

Picture DatasetSource::read(std::uint64_t index) const {
  Picture picture{dataset_.shape(), /*has_alpha=*/false, std::vector<std::uint8_t>(dataset_.shape().bytes())};
  dataset_.read(index, picture.pixels);
  return picture;
}

std::string DatasetSource::name(std::uint64_t index) const {
  return fmt::format("{}: sample {}", dataset_.folder().string(), index);
}

std::string DatasetSource::digest() const {
  return sha256_hex(fmt::format("dataset {}\n{}\n", dataset_.fingerprint(), dataset_.manifest().transform));
}

}  // namespace perrin::data
