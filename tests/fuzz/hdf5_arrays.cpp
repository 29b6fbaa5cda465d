#include "data/source/hdf5_arrays.hpp"

#include "tests/fuzz/input.hpp"
#include "tests/fuzz/read_all.hpp"

using namespace perrin;

int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::InputFile file("arrays.h5");
  return fuzz::understand_or_refuse([&] {
    const std::filesystem::path path = file.write({bytes, size});
    fuzz::read_all(*data::read_hdf5_arrays({&path, 1}, {}, {}));
  });
}
