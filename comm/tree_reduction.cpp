#include "comm/tree_reduction.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "comm/bfloat16.hpp"

namespace perrin::comm {
namespace {

// Elements reduced at a time: the partial results of 8 ranks in float64 are 32 KiB, which stays in the first-level
// cache.
constexpr std::size_t kBlock = 512;
// Elements of one turn of a loop over two ranks: a cache line of float32.
constexpr std::size_t kVector = 16;

struct BFloat16 {
  std::uint16_t bits;
};

template <typename Stored>
using Accumulator = std::conditional_t<std::is_same_v<Stored, BFloat16>, float, Stored>;

template <ReduceOp op, typename T>
T combine(T a, T b) {
  if constexpr (op == ReduceOp::sum) {
    if constexpr (std::is_same_v<T, std::int64_t>) {  // wraps: signed overflow is undefined
      return static_cast<T>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
    } else {
      return static_cast<T>(a + b);
    }
  } else {
    if constexpr (std::is_floating_point_v<T>) {  // a NaN on either side stays
      if (a != a) return a;
      if (b != b) return b;
    }
    if constexpr (op == ReduceOp::max) return a < b ? b : a;
    return b < a ? b : a;
  }
}

/// Element i of an array that may lie at any address.
template <typename Stored>
Accumulator<Stored> load(const std::byte* source, std::size_t i) {
  if constexpr (std::is_same_v<Stored, BFloat16>) {
    std::uint16_t bits;
    std::memcpy(&bits, source + i * sizeof(bits), sizeof(bits));
    return float_from_bfloat16(bits);
  } else {
    Stored value;
    std::memcpy(&value, source + i * sizeof(value), sizeof(value));
    return value;
  }
}

template <typename Stored>
void store(Accumulator<Stored> value, std::byte* output, std::size_t i) {
  if constexpr (std::is_same_v<Stored, BFloat16>) {
    const std::uint16_t bits = bfloat16_from_float(value);
    std::memcpy(output + i * sizeof(bits), &bits, sizeof(bits));
  } else {
    std::memcpy(output + i * sizeof(value), &value, sizeof(value));
  }
}

/// Two ranks: read once, written once. The output may be one of the sources.
template <typename Stored, ReduceOp op>
void reduce_pair(const std::byte* a, const std::byte* b, std::byte* output, std::size_t count) {
  std::size_t i = 0;
  for (; i + kVector <= count; i += kVector) {  // through registers: the compiler cannot know that nothing overlaps
    Accumulator<Stored> values[kVector];
    for (std::size_t k = 0; k < kVector; ++k) values[k] = combine<op>(load<Stored>(a, i + k), load<Stored>(b, i + k));
    for (std::size_t k = 0; k < kVector; ++k) store<Stored>(values[k], output, i + k);
  }
  for (; i < count; ++i) store<Stored>(combine<op>(load<Stored>(a, i), load<Stored>(b, i)), output, i);
}

template <typename Stored, ReduceOp op>
void reduce(std::span<const std::byte* const> sources, std::byte* output, std::size_t count) {
  const std::size_t ranks = sources.size();
  if (ranks == 2) return reduce_pair<Stored, op>(sources[0], sources[1], output, count);
  using T = Accumulator<Stored>;
  std::vector<T> partial(ranks * kBlock);
  for (std::size_t first = 0; first < count; first += kBlock) {
    const std::size_t block = std::min(kBlock, count - first);
    for (std::size_t r = 0; r < ranks; ++r)
      for (std::size_t i = 0; i < block; ++i) partial[r * kBlock + i] = load<Stored>(sources[r], first + i);
    for (std::size_t distance = 1; distance < ranks; distance *= 2) {
      for (std::size_t r = 0; r + distance < ranks; r += 2 * distance) {
        T* left = &partial[r * kBlock];
        const T* right = &partial[(r + distance) * kBlock];
        for (std::size_t i = 0; i < block; ++i) left[i] = combine<op>(left[i], right[i]);
      }
    }
    for (std::size_t i = 0; i < block; ++i) store<Stored>(partial[i], output, first + i);
  }
}

template <typename Stored>
void reduce(std::span<const std::byte* const> sources, std::byte* output, std::size_t count, ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return reduce<Stored, ReduceOp::sum>(sources, output, count);
    case ReduceOp::max:
      return reduce<Stored, ReduceOp::max>(sources, output, count);
    case ReduceOp::min:
      return reduce<Stored, ReduceOp::min>(sources, output, count);
  }
}

}  // namespace

void reduce_in_tree(std::span<const std::byte* const> sources, std::byte* output, std::size_t count, DataType type,
                    ReduceOp op) {
  switch (type) {
    case DataType::float32:
      return reduce<float>(sources, output, count, op);
    case DataType::bfloat16:
      return reduce<BFloat16>(sources, output, count, op);
    case DataType::float64:
      return reduce<double>(sources, output, count, op);
    case DataType::int64:
      return reduce<std::int64_t>(sources, output, count, op);
    case DataType::uint8:
      return reduce<std::uint8_t>(sources, output, count, op);
  }
}

}  // namespace perrin::comm
