#include "data/source/cifar.hpp"

#include "tests/fuzz/input.hpp"
#include "tests/fuzz/read_all.hpp"

using namespace perrin;

int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::InputFile file("cifar.bin");
  return fuzz::understand_or_refuse([&] {
    const auto& path = file.write({bytes, size});
    for (const data::CifarLabels labels : {data::CifarLabels::fine, data::CifarLabels::coarse})
      fuzz::read_all(*data::read_cifar_file(path, labels));
  });
}
