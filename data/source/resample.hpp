#pragma once

#include <cstdint>

#include "data/source/picture.hpp"

namespace perrin::data {

enum class Filter { box, bicubic, lanczos };

/// Resamples as Pillow's Image.resize does, to the bit: filters widened by the ratio where the image shrinks, columns
/// before rows, coefficients in fixed point of 22 bits, each pass rounded to 8 bits. An image that has the size
/// already is returned as it is. Source: Pillow, src/libImaging/Resample.c.
Picture resample(const Picture& picture, std::uint32_t height, std::uint32_t width, Filter filter);

}  // namespace perrin::data
