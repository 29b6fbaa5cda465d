#include <zlib.h>

#include "data/source/decode.hpp"
#include "tests/fuzz/input.hpp"

using namespace perrin;

int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  return fuzz::understand_or_refuse(
      [&] { static_cast<void>(data::decode_png(std::as_bytes(fuzz::Bytes(bytes, size)), "input")); });
}

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* bytes, std::size_t size, std::size_t limit);

/// Every other mutant is given right checksums: the mutants without end at the first chunk.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* bytes, std::size_t size, std::size_t limit,
                                               unsigned int seed) {
  constexpr std::size_t kSignature = 8, kLength = 4, kType = 4, kChecksum = 4;
  size = LLVMFuzzerMutate(bytes, size, limit);
  if (seed % 2 == 0) return size;
  for (std::size_t at = kSignature; at + kLength + kType + kChecksum <= size;) {
    std::size_t length = 0;
    for (std::size_t i = 0; i < kLength; ++i) length = length << 8 | bytes[at + i];
    if (length > size - at - kLength - kType - kChecksum) break;
    const auto covered = static_cast<uInt>(kType + length);
    const uLong checksum = crc32(0, bytes + at + kLength, covered);
    at += kLength + covered;
    for (std::size_t i = 0; i < kChecksum; ++i) bytes[at + i] = static_cast<std::uint8_t>(checksum >> (24 - 8 * i));
    at += kChecksum;
  }
  return size;
}
