#include "data/source/transform.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "data/source/resample.hpp"

namespace perrin::data {
namespace {

constexpr std::string_view name_of(Crop crop) {
  switch (crop) {
    case Crop::center:
      return "center";
    case Crop::center_wide:
      return "center-wide";
    case Crop::adm:
      return "adm";
    case Crop::none:
      break;
  }
  return "none";
}

constexpr std::string_view name_of(Alpha alpha) {
  switch (alpha) {
    case Alpha::drop:
      return "drop";
    case Alpha::black:
      return "black";
    case Alpha::white:
      return "white";
    case Alpha::refuse:
      break;
  }
  return "refuse";
}

std::size_t plane_of(const Picture& picture) {
  return static_cast<std::size_t>(picture.shape.height) * picture.shape.width;
}

/// As Pillow pastes with a mask: in * alpha + out * (255 - alpha), divided by 255 and rounded.
std::uint8_t blended(unsigned colour, unsigned background, unsigned alpha) {
  const unsigned sum = colour * alpha + background * (255 - alpha) + 128;
  return static_cast<std::uint8_t>(((sum >> 8) + sum) >> 8);
}

void remove_alpha(Picture& picture, Alpha policy) {
  if (!picture.has_alpha) return;
  const std::size_t plane = plane_of(picture);
  const std::uint32_t colours = picture.shape.channels - 1;
  const auto alpha = picture.pixels.begin() + static_cast<std::ptrdiff_t>(colours * plane);
  const bool opaque = std::all_of(alpha, picture.pixels.end(), [](std::uint8_t value) { return value == 255; });
  if (!opaque) {
    if (policy == Alpha::refuse) {
      throw TransformError("is partly transparent; say with --alpha black, white or drop what lies behind it");
    }
    if (policy != Alpha::drop) {
      const unsigned background = policy == Alpha::white ? 255 : 0;
      for (std::size_t i = 0; i < colours * plane; ++i) {
        picture.pixels[i] = blended(picture.pixels[i], background, alpha[static_cast<std::ptrdiff_t>(i % plane)]);
      }
    }
  }
  picture.pixels.resize(colours * plane);
  picture.shape.channels = colours;
  picture.has_alpha = false;
}

void set_channels(Picture& picture, std::uint32_t wanted) {
  const std::uint32_t has = picture.shape.channels;
  if (wanted == 0 || wanted == has) return;
  if (has != 1 && has != 3) {
    throw TransformError(fmt::format("has {} channels, which are neither grey nor RGB; leave --channels out", has));
  }
  const std::size_t plane = plane_of(picture);
  if (wanted == 3) {
    picture.pixels.resize(3 * plane);
    for (std::size_t c = 1; c < 3; ++c)
      std::copy_n(picture.pixels.begin(), plane, picture.pixels.begin() + static_cast<std::ptrdiff_t>(c * plane));
  } else {
    // ITU-R 601-2 luma in 16-bit fixed point, as Pillow's convert("L").
    for (std::size_t i = 0; i < plane; ++i) {
      const std::uint32_t luma = picture.pixels[i] * 19595u + picture.pixels[plane + i] * 38470u +
                                 picture.pixels[2 * plane + i] * 7471u + 0x8000u;
      picture.pixels[i] = static_cast<std::uint8_t>(luma >> 16);
    }
    picture.pixels.resize(plane);
  }
  picture.shape.channels = wanted;
}

Picture cut(const Picture& in, std::uint32_t top, std::uint32_t left, std::uint32_t height, std::uint32_t width) {
  Picture out{{in.shape.channels, height, width}, in.has_alpha, {}};
  out.pixels.reserve(out.shape.bytes());
  for (std::size_t c = 0; c < in.shape.channels; ++c) {
    for (std::size_t y = 0; y < height; ++y) {
      const auto row =
          in.pixels.begin() + static_cast<std::ptrdiff_t>((c * in.shape.height + top + y) * in.shape.width + left);
      out.pixels.insert(out.pixels.end(), row, row + width);
    }
  }
  return out;
}

Picture cut_middle(const Picture& in, std::uint32_t height, std::uint32_t width) {
  return cut(in, (in.shape.height - height) / 2, (in.shape.width - width) / 2, height, width);
}

Picture center_crop(const Picture& in, std::uint32_t height, std::uint32_t width) {
  const std::uint32_t side = std::min(in.shape.height, in.shape.width);
  return resample(cut_middle(in, side, side), height, width, Filter::lanczos);
}

Picture center_crop_wide(const Picture& in, std::uint32_t height, std::uint32_t width) {
  const double rows = std::nearbyint(static_cast<double>(height) * in.shape.width / width);
  if (in.shape.width < width || rows > in.shape.height) {
    throw TransformError(
        fmt::format("is {} x {}, too small for a crop to {} x {} (height x width); leave it out with "
                    "--on-error skip, or choose a lower --resolution",
                    in.shape.height, in.shape.width, height, width));
  }
  const Picture small =
      resample(cut_middle(in, static_cast<std::uint32_t>(rows), in.shape.width), height, width, Filter::lanczos);
  Picture canvas{{in.shape.channels, width, width}, in.has_alpha, {}};
  canvas.pixels.resize(canvas.shape.bytes());
  const std::size_t top = (width - height) / 2;
  for (std::size_t c = 0; c < in.shape.channels; ++c) {
    std::copy_n(small.pixels.begin() + static_cast<std::ptrdiff_t>(c * height * width),
                static_cast<std::size_t>(height) * width,
                canvas.pixels.begin() + static_cast<std::ptrdiff_t>((c * width + top) * width));
  }
  return canvas;
}

Picture adm_crop(Picture picture, std::uint32_t side) {
  const auto shortest = [&picture] { return std::min(picture.shape.height, picture.shape.width); };
  while (shortest() / 2 >= side) {
    picture = resample(picture, picture.shape.height / 2, picture.shape.width / 2, Filter::box);
  }
  const double scale = static_cast<double>(side) / shortest();
  const auto scaled = [scale](std::uint32_t extent) {
    return static_cast<std::uint32_t>(std::nearbyint(extent * scale));  // half to even, as Python rounds
  };
  return cut_middle(resample(picture, scaled(picture.shape.height), scaled(picture.shape.width), Filter::bicubic), side,
                    side);
}

}  // namespace

Transform::Transform(const TransformOptions& options) : options_(options) {
  if (options_.channels != 0 && options_.channels != 1 && options_.channels != 3) {
    throw std::invalid_argument("--channels is 1 or 3");
  }
  const bool sized = options_.height != 0 && options_.width != 0;
  if ((options_.crop == Crop::none) == sized) {
    throw std::invalid_argument("--crop and --resolution belong together: how, and to which size");
  }
  if (options_.crop == Crop::adm && options_.height != options_.width) {
    throw std::invalid_argument("--crop adm makes squares; give one number as --resolution");
  }
  if (options_.crop == Crop::center_wide && options_.width <= options_.height) {
    throw std::invalid_argument("--crop center-wide makes wide images; give --resolution WIDTHxHEIGHT");
  }
  if (sized && !is_plausible(4, std::max(options_.height, options_.width), options_.width)) {
    throw std::invalid_argument("--resolution is too large");
  }
}

Picture Transform::apply(Picture picture) const {
  remove_alpha(picture, options_.alpha);
  set_channels(picture, options_.channels);
  switch (options_.crop) {
    case Crop::none:
      break;
    case Crop::center:
      return center_crop(picture, options_.height, options_.width);
    case Crop::center_wide:
      return center_crop_wide(picture, options_.height, options_.width);
    case Crop::adm:
      return adm_crop(std::move(picture), options_.height);
  }
  return picture;
}

std::string Transform::description() const {
  std::vector<std::string> steps;
  if (options_.alpha != Alpha::refuse) steps.push_back(fmt::format("alpha {}", name_of(options_.alpha)));
  if (options_.channels != 0) steps.push_back(fmt::format("channels {}", options_.channels));
  if (options_.crop != Crop::none) {
    steps.push_back(fmt::format("crop {} to {}x{}", name_of(options_.crop), options_.height, options_.width));
  }
  return steps.empty() ? "none" : fmt::format("{}", fmt::join(steps, ", "));
}

}  // namespace perrin::data
