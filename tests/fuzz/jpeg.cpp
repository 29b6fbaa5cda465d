#include "data/source/decode.hpp"
#include "tests/fuzz/input.hpp"

using namespace perrin;

int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  return fuzz::understand_or_refuse(
      [&] { static_cast<void>(data::decode_jpeg(std::as_bytes(fuzz::Bytes(bytes, size)), "input")); });
}
