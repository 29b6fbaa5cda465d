#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/image_shape.hpp"

namespace perrin::data {

/// Images of equal shape with labels, readable in any order: what prepare() turns into a dataset.
class ImageSource {
 public:
  virtual ~ImageSource() = default;

  virtual std::uint64_t size() const = 0;
  virtual ImageShape shape() const = 0;
  /// -1 where the image has none.
  virtual std::int32_t label(std::uint64_t index) const = 0;
  /// Name of label 0, 1, ...; empty: unknown.
  virtual std::vector<std::string> class_names() const = 0;
  /// One image, uint8 [C, H, W].
  virtual void read(std::uint64_t index, std::span<std::uint8_t> pixels) const = 0;
  /// What kind of source this is, for the record: "idx".
  virtual std::string kind() const = 0;
  /// What was done to the pixels since, for the record: "none".
  virtual std::string transform() const = 0;
  /// SHA-256 over all images and labels: equal digests mean equal datasets.
  virtual std::string digest() const = 0;
};

}  // namespace perrin::data
