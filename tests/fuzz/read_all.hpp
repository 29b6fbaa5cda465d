#pragma once

#include <cstdint>
#include <cstdlib>

#include "data/source/picture_source.hpp"

namespace perrin::fuzz {

/// Every image and label that a source offers.
inline void read_all(const data::PictureSource& source) {
  for (std::uint64_t i = 0; i < source.size(); ++i) {
    const data::Picture picture = source.read(i);
    if (picture.pixels.size() != picture.shape.bytes() || source.label(i) < -1) std::abort();
  }
}

}  // namespace perrin::fuzz
