#pragma once

#include <cstdint>
#include <vector>

#include "trainer/config.hpp"

namespace perrin::trainer {

/// A run of samples of one global batch that one rank puts through one forward and backward pass.
struct Slice {
  std::int64_t offset = 0;  ///< of its first sample within the global batch
  std::int64_t count = 0;
};

/// How a global batch is cut over ranks and micro-batches. Rank r of W takes [r G / W, (r + 1) G / W), in equal
/// micro-batches as far as they go; shares may differ by one sample, since losses are divided by G and gradients
/// summed. With virtual shards the cut does not depend on the ranks: shard s of S is [s G / S, (s + 1) G / S), and rank
/// r takes S / W of them, one after the other.
class SlicePlan {
 public:
  /// @param micro_batch most samples of one slice; 0: a rank's whole share
  /// @param shards      virtual shards; 0: none
  /// @throws std::invalid_argument if the batch is smaller than the ranks or shards, or the ranks do not divide the
  /// shards
  SlicePlan(std::int64_t global_batch, int ranks, std::int64_t micro_batch, std::int64_t shards = 0);
  /// As the configuration says.
  SlicePlan(const Config& config, int ranks);

  std::int64_t global_batch() const { return global_batch_; }
  /// Slices of one rank, in order; together the ranks' slices cover the batch once.
  std::vector<Slice> slices_of(int rank) const;
  /// Samples of the largest slice of all ranks. Of virtual shards it does not depend on the ranks.
  std::int64_t largest_slice() const;

 private:
  std::int64_t global_batch_;
  int ranks_;
  std::int64_t micro_batch_;
  std::int64_t shards_;
};

}  // namespace perrin::trainer
