#include "trainer/interchange/png.hpp"

#include <png.h>

#include <span>
#include <stdexcept>
#include <string>

#include "data/data_error.hpp"
#include "data/file.hpp"

namespace perrin::trainer {

void write_png(const std::filesystem::path& path, const Picture& picture) {
  const std::size_t expected = static_cast<std::size_t>(picture.width) * picture.height * picture.channels;
  if ((picture.channels != 1 && picture.channels != 3) || expected == 0 || picture.pixels.size() != expected) {
    throw std::invalid_argument("write_png: " + std::to_string(picture.pixels.size()) + " bytes are no picture of " +
                                std::to_string(picture.width) + "x" + std::to_string(picture.height) + " with " +
                                std::to_string(picture.channels) + " channels (1 or 3)");
  }
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = picture.width;
  image.height = picture.height;
  image.format = picture.channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  // Twice: the size first, then the bytes. Without a file the picture can be published by rename.
  png_alloc_size_t size = 0;
  std::vector<std::byte> bytes;
  for (int pass = 0; pass < 2; ++pass) {
    bytes.resize(size);
    if (png_image_write_to_memory(&image, bytes.empty() ? nullptr : bytes.data(), &size, 0, picture.pixels.data(), 0,
                                  nullptr) == 0) {
      throw data::DataError(path, std::string("cannot be encoded as PNG: ") + image.message);
    }
  }
  data::write_file_durably(path, std::span<const std::byte>(bytes).first(size));
}

}  // namespace perrin::trainer
