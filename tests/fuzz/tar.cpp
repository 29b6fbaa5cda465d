#include "data/source/cifar.hpp"
#include "tests/fuzz/input.hpp"
#include "tests/fuzz/read_all.hpp"

using namespace perrin;

/// CIFAR as it is downloaded.
int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::InputFile file("cifar.tar");
  return fuzz::understand_or_refuse([&] {
    fuzz::read_all(*data::read_cifar(file.write({bytes, size}), data::Subset::test, data::CifarLabels::fine));
  });
}
