#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "trainer/config.hpp"
#include "trainer/optimize/parameter_arena.hpp"

namespace torch::autograd {
struct Node;
}

namespace perrin::trainer {

/// A contiguous range of the gradient arena that is summed over ranks in one collective.
struct Bucket {
  std::int64_t offset = 0;  ///< elements
  std::int64_t count = 0;
  std::size_t first_range = 0, last_range = 0;  ///< of the layout, both included
};

/// Buckets in the order they leave: backward reaches the last parameters first, so the layout is cut from its end. The
/// first bucket is small, so that the first collective starts early. A pure function of its arguments, so equal on all
/// ranks.
std::vector<Bucket> cut_buckets(const ParameterLayout& layout, std::int64_t cap_bytes);

/// Sums gradients over ranks while backward goes on. A hook behind each parameter moves the fresh gradient into the
/// fp32 arena (copied on the first slice, added on later ones); during the last slice a bucket leaves as soon as it and
/// all before it are full, so that every rank launches the same collectives in the same order.
///
/// Reproducible: the gradients of a rank's slices, which then are virtual shards, are added in a binary tree of
/// neighbours, and those of the ranks in the tree above it, by an exchange of pieces (all-to-all), their sum in
/// float32, and an all-gather. Shards and tree do not depend on the ranks, so neither do the bits. The same on every
/// backend.
class GradientReducer {
 public:
  /// Compares layout and buckets over `control` first.
  /// @param bucket_bytes cap of one bucket
  /// @param compute_stream stream on which backward runs (a cudaStream_t), null on the CPU
  /// @param overlap        false: buckets leave in finish(); for measuring what overlap is worth
  /// @throws comm::CommError naming the ranks whose parameters differ from rank 0's; std::invalid_argument when ranks
  /// are
  ///         no power of two and the reduction is reproducible
  GradientReducer(ParameterArena& arena, comm::Communicator& communicator, comm::Communicator& control,
                  std::int64_t bucket_bytes, void* compute_stream, Reduction reduction = Reduction::fast,
                  bool overlap = true);
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;
  ~GradientReducer();

  /// Backward of one slice's loss (a scalar, already divided by the global batch). The last slice of a step sends the
  /// buckets.
  /// @param slice   0 to slices - 1, in order   @param slices  of this rank in this step; reproducible: a power of two
  /// @throws std::logic_error naming a parameter that received no gradient
  void backward(const at::Tensor& loss, std::size_t slice, std::size_t slices);
  /// Waits until the arena holds the gradient of the whole global batch.
  /// @throws comm::CommError
  void finish();

  const std::vector<Bucket>& buckets() const { return buckets_; }
  /// SHA-256 of layout and buckets.
  const std::string& layout_hash() const { return layout_hash_; }

 private:
  bool last_slice() const { return slice_ + 1 == slices_; }
  void on_gradient(std::size_t range);
  /// Moves the gradient of slice_ into the tree of the slices before it; the last one completes the arena's.
  void add_in_tree(std::size_t range, const at::Tensor& fresh);
  void launch_full_buckets();
  comm::Work exchange_pieces(std::size_t bucket);
  comm::Work gather_sum(std::size_t bucket);

  ParameterArena& arena_;
  comm::Communicator& communicator_;
  void* compute_stream_;
  std::vector<Bucket> buckets_;
  std::vector<std::size_t> bucket_of_range_;
  std::string layout_hash_;
  std::vector<at::Tensor> gradient_views_;
  // The hooks live as long as these; a parameter itself holds its accumulator weakly.
  std::vector<std::shared_ptr<torch::autograd::Node>> accumulators_;
  std::vector<std::uintptr_t> hook_keys_;

  std::size_t slice_ = 0, slices_ = 1;
  std::vector<std::size_t> missing_;  // per bucket: gradients that have not arrived in this slice
  std::vector<bool> arrived_;         // per range
  std::size_t next_bucket_ = 0;
  std::vector<comm::Work> works_;

  Reduction reduction_;
  bool overlap_;
  std::vector<at::Tensor> partial_sums_;  // flat, one for each level of the tree below its root; reproducible only
  struct Exchange {
    at::Tensor padded;  // the bucket, with zeros up to a multiple of the ranks
    at::Tensor pieces;  // [ranks, piece]: every rank's gradients of the piece that this rank sums
    at::Tensor sum;     // [piece]
  };
  std::vector<Exchange> exchanges_;  // per bucket; reproducible on several ranks only
};

}  // namespace perrin::trainer
