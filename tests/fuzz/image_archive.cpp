#include <memory>

#include "data/source/image_files.hpp"
#include "data/source/zip_archive.hpp"
#include "tests/fuzz/input.hpp"
#include "tests/fuzz/read_all.hpp"

using namespace perrin;

/// A zip archive of images with a dataset.json.
int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::InputFile file("images.zip");
  return fuzz::understand_or_refuse([&] {
    auto archive = std::make_unique<data::ZipArchive>(file.write({bytes, size}));
    fuzz::read_all(data::ImageFiles(data::files_in_zip(std::move(archive)), {}));
  });
}
