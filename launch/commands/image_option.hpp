#pragma once

#include <string>

#include "data/image_shape.hpp"

namespace perrin::launch {

/// What `--image 3x32x32` asks for: channels, height, width. @throws UsageError for another text or an implausible
/// shape
data::ImageShape read_image_shape(const std::string& text);

}  // namespace perrin::launch
