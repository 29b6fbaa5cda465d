#include "data/source/exif_orientation.hpp"

#include <cstddef>
#include <utility>

namespace perrin::data {
namespace {

constexpr std::uint32_t kOrientationTag = 0x0112;
constexpr std::uint32_t kShort = 3;
constexpr std::size_t kHeaderBytes = 8;
constexpr std::size_t kEntryBytes = 12;

std::uint32_t number(std::span<const std::uint8_t> bytes, std::size_t at, std::size_t count, bool big_endian) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < count; ++i) value = value << 8 | bytes[at + (big_endian ? i : count - 1 - i)];
  return value;
}

}  // namespace

int exif_orientation(std::span<const std::uint8_t> tiff) {
  if (tiff.size() < kHeaderBytes || tiff[0] != tiff[1] || (tiff[0] != 'I' && tiff[0] != 'M')) return 1;
  const bool big_endian = tiff[0] == 'M';
  const std::size_t directory = number(tiff, 4, 4, big_endian);
  if (directory > tiff.size() - 2) return 1;
  const std::size_t entries = number(tiff, directory, 2, big_endian);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t at = directory + 2 + i * kEntryBytes;
    if (at + kEntryBytes > tiff.size()) return 1;
    if (number(tiff, at, 2, big_endian) != kOrientationTag) continue;
    if (number(tiff, at + 2, 2, big_endian) != kShort || number(tiff, at + 4, 4, big_endian) != 1) return 1;
    const std::uint32_t orientation = number(tiff, at + 8, 2, big_endian);
    return orientation >= 1 && orientation <= 8 ? static_cast<int>(orientation) : 1;
  }
  return 1;
}

Picture upright(Picture picture, int orientation) {
  if (orientation <= 1 || orientation > 8) return picture;
  const bool transposed = orientation >= 5;  // the stored rows are columns
  const bool flip_rows = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
  const bool flip_columns = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  const ImageShape& from = picture.shape;
  Picture out{from, picture.has_alpha, std::vector<std::uint8_t>(from.bytes())};
  if (transposed) std::swap(out.shape.height, out.shape.width);
  auto to = out.pixels.begin();
  for (std::size_t c = 0; c < from.channels; ++c) {
    for (std::size_t y = 0; y < out.shape.height; ++y) {
      for (std::size_t x = 0; x < out.shape.width; ++x) {
        const std::size_t v = flip_rows ? out.shape.height - 1 - y : y;
        const std::size_t u = flip_columns ? out.shape.width - 1 - x : x;
        const std::size_t row = transposed ? u : v;
        const std::size_t column = transposed ? v : u;
        *to++ = picture.pixels[(c * from.height + row) * from.width + column];
      }
    }
  }
  return out;
}

}  // namespace perrin::data
