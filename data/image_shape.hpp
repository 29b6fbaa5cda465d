#pragma once

#include <cstddef>
#include <cstdint>

namespace perrin::data {

/// Extent of one uint8 image in channel, height, width order.
struct ImageShape {
  std::uint32_t channels = 0;
  std::uint32_t height = 0;
  std::uint32_t width = 0;

  /// Bytes of one image. Shapes from files are checked against kMaxImageBytes before they get here.
  constexpr std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(channels) * height * static_cast<std::size_t>(width);
  }
  friend constexpr bool operator==(const ImageShape&, const ImageShape&) = default;
};

/// Larger images are taken for a damaged header: 1 GiB is 18,918 x 18,918 pixels of three channels.
inline constexpr std::size_t kMaxImageBytes = std::size_t{1} << 30;

/// Whether every extent is at least 1 and the image has at most kMaxImageBytes.
constexpr bool is_plausible(std::uint64_t channels, std::uint64_t height, std::uint64_t width) noexcept {
  if (channels == 0 || height == 0 || width == 0) return false;
  return channels <= kMaxImageBytes && height <= kMaxImageBytes / channels &&
         width <= kMaxImageBytes / channels / height;
}

}  // namespace perrin::data
