#include "tests/comm/host_gpu/reduction.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "comm/bfloat16.hpp"

namespace perrin::host_gpu {
namespace {

struct Bfloat16 {
  std::uint16_t bits;
  friend bool operator<(Bfloat16 a, Bfloat16 b) { return a.value() < b.value(); }
  friend Bfloat16 operator+(Bfloat16 a, Bfloat16 b) { return {comm::bfloat16_from_float(a.value() + b.value())}; }
  float value() const { return comm::float_from_bfloat16(bits); }
};

template <typename T>
T combine(T a, T b, ncclRedOp_t op) {
  if (op == ncclMax) return std::max(a, b);
  if (op == ncclMin) return std::min(a, b);
  return static_cast<T>(a + b);
}

/// In blocks that fit a cache: copies of large parts would take as much memory again. The bytes of a part may lie unaligned.
template <typename T>
void reduce_as(const std::vector<Bytes>& parts, void* output, std::size_t count, ncclRedOp_t op) {
  constexpr std::size_t kBlock = 4096;
  std::array<T, kBlock> result;
  std::array<T, kBlock> next;
  for (std::size_t first = 0; first < count; first += kBlock) {
    const std::size_t length = std::min(kBlock, count - first);
    for (std::size_t rank = 0; rank < parts.size(); ++rank) {
      std::memcpy(next.data(), parts[rank].data() + first * sizeof(T), length * sizeof(T));
      for (std::size_t i = 0; i < length; ++i) result[i] = rank == 0 ? next[i] : combine(result[i], next[i], op);
    }
    std::memcpy(static_cast<std::byte*>(output) + first * sizeof(T), result.data(), length * sizeof(T));
  }
}

}  // namespace

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclFloat32:
      return 4;
    case ncclFloat64:
    case ncclInt64:
      return 8;
    default:
      return 0;
  }
}

bool known(ncclRedOp_t op) { return op == ncclSum || op == ncclMax || op == ncclMin; }

void reduce(const std::vector<Bytes>& parts, void* output, std::size_t count, ncclDataType_t type, ncclRedOp_t op) {
  switch (type) {
    case ncclUint8:
      return reduce_as<std::uint8_t>(parts, output, count, op);
    case ncclBfloat16:
      return reduce_as<Bfloat16>(parts, output, count, op);
    case ncclFloat32:
      return reduce_as<float>(parts, output, count, op);
    case ncclFloat64:
      return reduce_as<double>(parts, output, count, op);
    case ncclInt64:
      return reduce_as<std::int64_t>(parts, output, count, op);
    default:
      return;
  }
}

}  // namespace perrin::host_gpu
