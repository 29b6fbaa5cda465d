#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace perrin::trainer {

/// An 8-bit picture: rows from the top, pixels from the left, channels together (1: gray, 3: red, green, blue).
struct Picture {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::uint32_t channels = 1;
  std::vector<std::uint8_t> pixels;  ///< height * width * channels
};

/// Writes a PNG file, durably and whole: an existing one is replaced by rename.
/// @throws std::invalid_argument when channels are neither 1 nor 3 or the pixels do not match the size; data::DataError
/// when it cannot be
///         written
void write_png(const std::filesystem::path& path, const Picture& picture);

}  // namespace perrin::trainer
