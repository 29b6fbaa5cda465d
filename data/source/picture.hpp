#pragma once

#include <cstdint>
#include <vector>

#include "data/image_shape.hpp"

namespace perrin::data {

/// One decoded image, before any transform: its size is its own.
struct Picture {
  ImageShape shape;
  /// Whether the last of 2 or 4 channels is opacity (255: opaque) rather than a colour.
  bool has_alpha = false;
  std::vector<std::uint8_t> pixels;  // [C, H, W]
};

/// From the order of most files, [H, W, C], to planes.
inline Picture from_interleaved(const ImageShape& shape, bool has_alpha, const std::uint8_t* pixels) {
  Picture picture{shape, has_alpha, std::vector<std::uint8_t>(shape.bytes())};
  const std::size_t plane = static_cast<std::size_t>(shape.height) * shape.width;
  for (std::size_t c = 0; c < shape.channels; ++c) {
    for (std::size_t i = 0; i < plane; ++i) picture.pixels[c * plane + i] = pixels[i * shape.channels + c];
  }
  return picture;
}

}  // namespace perrin::data
