#pragma once

#include <cstdint>
#include <span>

#include "data/source/picture.hpp"

namespace perrin::data {

/// The orientation, 1 to 8, that an Exif block (a TIFF header and its first directory) states; 1 where it states none
/// or is damaged, since it says nothing of the pixels then. Source: Exif 2.32, 4.6.4, tag 0x0112.
int exif_orientation(std::span<const std::uint8_t> tiff);

/// Turns and mirrors a picture that was stored with an orientation upright; 1 changes nothing.
Picture upright(Picture picture, int orientation);

}  // namespace perrin::data
