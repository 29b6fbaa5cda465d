#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/source/picture.hpp"

namespace perrin::data {

/// Somebody's images with labels, readable in any order, each of its own size: a format that is understood.
class PictureSource {
 public:
  virtual ~PictureSource() = default;

  virtual std::uint64_t size() const = 0;
  /// One image as it is stored. @throws DataError naming file and member for one that cannot be decoded
  virtual Picture read(std::uint64_t index) const = 0;
  /// -1 where the image has none.
  virtual std::int32_t label(std::uint64_t index) const = 0;
  /// Name of label 0, 1, ...; empty: unknown.
  virtual std::vector<std::string> class_names() const = 0;
  /// What people call the image in an error: "pets.zip: cat/7.png".
  virtual std::string name(std::uint64_t index) const = 0;
  /// What kind of source this is, for the record: "cifar-10".
  virtual std::string kind() const = 0;
  /// What was done to the pixels before they were stored so, for the record.
  virtual std::string transform() const { return "none"; }
  /// SHA-256 over all images, as they are stored, and labels: equal digests mean equal datasets.
  virtual std::string digest() const = 0;
};

}  // namespace perrin::data
