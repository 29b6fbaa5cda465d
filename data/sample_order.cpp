#include "data/sample_order.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <stdexcept>

namespace perrin::data {
namespace {

constexpr int kRounds = 6;
/// Six rounds are told from random by all 120 orders of 5 samples (z = 333); above this they are not.
constexpr std::uint64_t kTableBelow = 1024;
constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio: the increment of splitmix64

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014): every input bit changes every output bit.
constexpr std::uint64_t mix64(std::uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9;
  x ^= x >> 27;
  x *= 0x94d049bb133111eb;
  x ^= x >> 31;
  return x;
}

__extension__ using Uint128 = unsigned __int128;

/// The high half of the product: maps a uniform 64-bit number to [0, extent).
constexpr std::uint64_t scale_to(std::uint64_t uniform, std::uint64_t extent) {
  return static_cast<std::uint64_t>((static_cast<Uint128>(uniform) * extent) >> 64);
}

/// Hashed, not added: with seed + epoch, (seed 1, epoch 1) would repeat (seed 2, epoch 0).
constexpr std::uint64_t epoch_key(std::uint64_t seed, std::uint64_t epoch) {
  return mix64(mix64(seed + kGolden) ^ mix64(epoch + 2 * kGolden) * kGolden);
}

constexpr std::uint64_t subkey(std::uint64_t key, std::uint64_t index) { return mix64(key + (index + 1) * kGolden); }

/// One epoch's permutation of a large dataset.
class FeistelPermutation {
 public:
  FeistelPermutation(std::uint64_t size, std::uint64_t left_extent, std::uint64_t right_extent, std::uint64_t key)
      : size_(size), left_extent_(left_extent), right_extent_(right_extent) {
    for (int round = 0; round < kRounds; ++round) keys_[round] = subkey(key, static_cast<std::uint64_t>(round));
  }

  std::uint64_t operator()(std::uint64_t index) const {
    // The network permutes [0, a * b); following its cycle back into [0, size) permutes that. a * b exceeds size by
    // less than a, so a second pass is needed for fewer than one index in sqrt(size).
    do {
      index = encrypt(index);
    } while (index >= size_);
    return index;
  }

 private:
  static std::uint64_t add(std::uint64_t x, std::uint64_t y, std::uint64_t extent) {
    const std::uint64_t sum = x + y;
    return sum >= extent ? sum - extent : sum;
  }

  std::uint64_t encrypt(std::uint64_t index) const {
    std::uint64_t left = index % left_extent_;
    std::uint64_t right = index / left_extent_;
    for (int round = 0; round < kRounds; round += 2) {
      left = add(left, scale_to(mix64(right ^ keys_[round]), left_extent_), left_extent_);
      right = add(right, scale_to(mix64(left ^ keys_[round + 1]), right_extent_), right_extent_);
    }
    return right * left_extent_ + left;
  }

  std::uint64_t size_;
  std::uint64_t left_extent_;
  std::uint64_t right_extent_;
  std::array<std::uint64_t, kRounds> keys_{};
};

/// One epoch's permutation of a small dataset.
class TablePermutation {
 public:
  TablePermutation(std::uint64_t size, std::uint64_t key) {
    for (std::uint64_t i = 0; i < size; ++i) {
      const std::uint64_t j = scale_to(subkey(key, i), i + 1);
      table_[i] = table_[j];
      table_[j] = static_cast<std::uint16_t>(i);
    }
  }

  std::uint64_t operator()(std::uint64_t index) const { return table_[index]; }

 private:
  std::array<std::uint16_t, kTableBelow> table_{};
};

std::uint64_t ceil_sqrt(std::uint64_t n) {
  auto root = static_cast<std::uint64_t>(std::sqrt(static_cast<double>(n)));
  while (root * root < n) ++root;
  while ((root - 1) * (root - 1) >= n) --root;
  return root;
}

}  // namespace

SampleOrder::SampleOrder(std::uint64_t size, std::uint64_t seed) : size_(size), seed_(seed) {
  if (size == 0 || size > kMaxSize) throw std::invalid_argument("SampleOrder: size must be in [1, 2^48]");
  left_extent_ = ceil_sqrt(size);
  right_extent_ = (size + left_extent_ - 1) / left_extent_;
}

std::uint64_t SampleOrder::at(std::uint64_t position) const {
  std::uint64_t sample = 0;
  fill(position, {&sample, 1});
  return sample;
}

void SampleOrder::fill(std::uint64_t first, std::span<std::uint64_t> samples) const {
  const auto fill_run = [](auto permutation, std::uint64_t index, std::span<std::uint64_t> run) {
    for (std::uint64_t& sample : run) sample = permutation(index++);
  };
  while (!samples.empty()) {
    const std::uint64_t index = first % size_;
    const auto run = samples.first(std::min<std::uint64_t>(samples.size(), size_ - index));
    const std::uint64_t key = epoch_key(seed_, epoch_of(first));
    if (size_ < kTableBelow) {
      fill_run(TablePermutation(size_, key), index, run);
    } else {
      fill_run(FeistelPermutation(size_, left_extent_, right_extent_, key), index, run);
    }
    first += run.size();
    samples = samples.subspan(run.size());
  }
}

}  // namespace perrin::data
