#pragma once

#include <string>

#include "data/image_shape.hpp"

namespace perrin::launch {

/// The shape in an --image option. @param text  channels x height x width: "3x32x32"   @throws UsageError otherwise
data::ImageShape image_shape(const std::string& text);

}  // namespace perrin::launch
