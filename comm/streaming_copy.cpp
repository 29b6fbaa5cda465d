#include "comm/streaming_copy.hpp"

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace perrin::comm {

void streaming_copy(std::byte* destination, const std::byte* source, std::size_t bytes) noexcept {
#ifdef __SSE2__
  constexpr std::size_t kLine = 64;
  constexpr std::size_t kWords = kLine / sizeof(__m128i);
  const std::size_t head = -reinterpret_cast<std::uintptr_t>(destination) % kLine;
  if (bytes >= head + kLine) {
    std::memcpy(destination, source, head);
    destination += head;
    source += head;
    bytes -= head;
    for (; bytes >= kLine; bytes -= kLine, destination += kLine, source += kLine) {
      __m128i words[kWords];
      std::memcpy(words, source, kLine);
      for (std::size_t i = 0; i < kWords; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(destination) + i, words[i]);
    }
    _mm_sfence();  // such stores are not ordered before a release otherwise
  }
#endif
  std::memcpy(destination, source, bytes);
}

}  // namespace perrin::comm
