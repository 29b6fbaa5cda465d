#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace perrin::data {

/// An endless, seekable stream of samples: epoch e = position / size is a fresh permutation of [0, size), keyed by
/// (seed, e). Nothing is padded and nothing dropped; a batch may straddle two epochs. The order is a pure integer
/// function of (size, seed, position), the same on every machine and on any number of ranks, in O(1) memory.
///
/// From 1,024 samples on: a 6-round generalized Feistel network over a * b >= size (a = ceil(sqrt(size)),
/// b = ceil(size / a)) with cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.
/// Below, where so few rounds are visibly not random: a Fisher-Yates shuffle with its own integer generator.
class SampleOrder {
 public:
  /// Names this very order; it is stored wherever a position is, and changes whenever any bit of the order does.
  static constexpr std::string_view kAlgorithm = "perrin-order-1";
  /// Positions are 48-bit counters wherever they key random numbers, so no dataset needs to be larger.
  static constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 48;

  /// @throws std::invalid_argument if size is 0 or above kMaxSize
  SampleOrder(std::uint64_t size, std::uint64_t seed);

  std::uint64_t size() const noexcept { return size_; }
  std::uint64_t seed() const noexcept { return seed_; }
  std::uint64_t epoch_of(std::uint64_t position) const noexcept { return position / size_; }

  /// The sample at `position`. Safe from any number of threads.
  std::uint64_t at(std::uint64_t position) const;
  /// The samples at first, first + 1, ...: the same as at() of each, with the work per epoch done once.
  void fill(std::uint64_t first, std::span<std::uint64_t> samples) const;

 private:
  std::uint64_t size_;
  std::uint64_t seed_;
  std::uint64_t left_extent_;   // a
  std::uint64_t right_extent_;  // b
};

}  // namespace perrin::data
