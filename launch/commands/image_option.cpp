#include "launch/commands/image_option.hpp"

#include <cstdio>

#include "launch/usage_error.hpp"

namespace perrin::launch {

data::ImageShape read_image_shape(const std::string& text) {
  unsigned channels = 0, height = 0, width = 0;
  char end = 0;
  if (std::sscanf(text.c_str(), "%ux%ux%u%c", &channels, &height, &width, &end) != 3 ||
      !data::is_plausible(channels, height, width))
    throw UsageError("--image is channels x height x width, like 3x32x32, not '" + text + "'");
  return {channels, height, width};
}

}  // namespace perrin::launch
