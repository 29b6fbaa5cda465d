#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "data/source/picture.hpp"

namespace perrin::data {

/// Larger pictures are refused before anything is allocated: 2^28 pixels are 16,384 x 16,384.
inline constexpr std::uint64_t kMaxPixels = std::uint64_t{1} << 28;

/// A whole PNG or JPEG file as 8-bit grey, grey and alpha, RGB or RGBA, upright by its Exif orientation. Palettes and
/// less than 8 bits are expanded; colour profiles and gamma are not applied, as Pillow does.
/// @param name  of the image, for errors
/// @throws DataError for other formats, 16 bits a channel, CMYK, more than kMaxPixels, and truncated or damaged files
Picture decode(std::span<const std::byte> file, const std::string& name);

/// The two decoders, for files that start as theirs.
Picture decode_png(std::span<const std::byte> file, const std::string& name);
Picture decode_jpeg(std::span<const std::byte> file, const std::string& name);

/// @throws DataError for more than kMaxPixels
void require_decodable_size(const std::string& name, std::uint64_t height, std::uint64_t width);

bool is_png(std::span<const std::byte> file);
bool is_jpeg(std::span<const std::byte> file);
/// Whether a file of this name, by its ending, is taken for an image that decode() reads.
bool has_picture_ending(std::string_view name);
/// Whether it is an image of a format that decode() does not read.
bool has_foreign_picture_ending(std::string_view name);

}  // namespace perrin::data
