#include "data/source/decode.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <filesystem>

#include "data/data_error.hpp"

namespace perrin::data {
namespace {

constexpr std::string_view kPngSignature("\x89PNG\r\n\x1a\n", 8);
constexpr std::string_view kJpegSignature("\xff\xd8\xff", 3);
constexpr std::array<std::string_view, 3> kEndings{".png", ".jpg", ".jpeg"};
constexpr std::array<std::string_view, 8> kForeignEndings{".webp", ".bmp", ".gif",  ".tif",
                                                          ".tiff", ".ppm", ".avif", ".heic"};

bool starts_with(std::span<const std::byte> file, std::string_view signature) {
  return file.size() >= signature.size() && std::memcmp(file.data(), signature.data(), signature.size()) == 0;
}

template <std::size_t N>
bool ends_as(std::string_view name, const std::array<std::string_view, N>& endings) {
  std::string ending = std::filesystem::path(name).extension();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
  return std::find(endings.begin(), endings.end(), ending) != endings.end();
}

}  // namespace

bool is_png(std::span<const std::byte> file) { return starts_with(file, kPngSignature); }
bool is_jpeg(std::span<const std::byte> file) { return starts_with(file, kJpegSignature); }
bool has_picture_ending(std::string_view name) { return ends_as(name, kEndings); }
bool has_foreign_picture_ending(std::string_view name) { return ends_as(name, kForeignEndings); }

void require_decodable_size(const std::string& name, std::uint64_t height, std::uint64_t width) {
  if (height == 0 || width == 0 || width > kMaxPixels / height) {
    throw DataError(
        name, fmt::format("says it is {} x {}; images have 1 to {} pixels: make it smaller, or it is damaged", height,
                          width, kMaxPixels));
  }
}

Picture decode(std::span<const std::byte> file, const std::string& name) {
  if (is_png(file)) return decode_png(file, name);
  if (is_jpeg(file)) return decode_jpeg(file, name);
  if (file.empty()) throw DataError(name, "is empty; copy it again");
  throw DataError(name, "is neither PNG nor JPEG, whatever its name says; convert it to PNG");
}

}  // namespace perrin::data
