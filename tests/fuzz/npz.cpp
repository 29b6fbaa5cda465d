#include "data/source/npz.hpp"

#include "data/source/zip_archive.hpp"
#include "tests/fuzz/input.hpp"
#include "tests/fuzz/read_all.hpp"

using namespace perrin;

int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::InputFile file("arrays.npz");
  return fuzz::understand_or_refuse([&] {
    const data::ZipArchive archive(file.write({bytes, size}));
    if (data::is_npz(archive)) fuzz::read_all(*data::read_npz(archive, {}, {}));
  });
}
