#include <cstdlib>

#include "tests/fuzz/input.hpp"
#include "trainer/interchange/safetensors_format.hpp"

using namespace perrin;

/// Of a file that is understood, every byte of every tensor is there.
int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::InputFile file("model.safetensors");
  return fuzz::understand_or_refuse([&] {
    const auto tensors = trainer::SafetensorsFile::read(file.write({bytes, size}));
    unsigned sum = 0;
    for (const auto& [name, view] : tensors.tensors()) {
      std::size_t expected = trainer::size_of(view.type);
      for (const std::int64_t extent : view.shape) expected *= static_cast<std::size_t>(extent);
      if (view.bytes.size() != expected) std::abort();
      for (const std::byte byte : view.bytes) sum += std::to_integer<unsigned>(byte);
    }
    static volatile unsigned sink;
    sink = sum;
  });
}
