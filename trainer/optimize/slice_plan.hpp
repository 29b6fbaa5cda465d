#pragma once

#include <cstdint>
#include <vector>

namespace perrin::trainer {

/// A run of samples of one global batch that one rank puts through one forward and backward pass.
struct Slice {
  std::int64_t offset = 0;  ///< of its first sample within the global batch
  std::int64_t count = 0;
};

/// How a global batch is cut over ranks and micro-batches. Rank r of W takes [r G / W, (r + 1) G / W), in equal
/// micro-batches as far as they go; shares may differ by one sample, since losses are divided by G and gradients
/// summed.
class SlicePlan {
 public:
  /// @param micro_batch most samples of one slice; 0: a rank's whole share
  /// @throws std::invalid_argument if the batch is smaller than the ranks
  SlicePlan(std::int64_t global_batch, int ranks, std::int64_t micro_batch);

  std::int64_t global_batch() const { return global_batch_; }
  /// Slices of one rank, in order; together the ranks' slices cover the batch once.
  std::vector<Slice> slices_of(int rank) const;

 private:
  std::int64_t global_batch_;
  int ranks_;
  std::int64_t micro_batch_;
};

}  // namespace perrin::trainer
