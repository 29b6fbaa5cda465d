#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "trainer/config.hpp"
#include "trainer/optimize/gradient_exchange.hpp"
#include "trainer/optimize/parameter_arena.hpp"
#include "trainer/thread_team.hpp"

namespace torch::autograd {
struct Node;
}

namespace perrin::trainer {

/// Sums gradients over ranks while backward goes on. A hook behind each parameter moves the fresh gradient into the
/// fp32 arena (copied on the first slice, added on later ones); during the last slice a bucket of the arena's plan
/// leaves as soon as it and all before it are full, so that every rank launches the same collectives in the same order.
///
/// Reproducible: the gradients of a rank's slices, which then are virtual shards, are added in a binary tree of
/// neighbours, and those of the ranks in the tree above it (GradientExchange). Shards and tree do not depend on the
/// ranks, so neither do the bits.
class GradientReducer {
 public:
  /// Compares layout and plan over `control` first.
  /// @param communicator of the ranks of the arena's plan
  /// @param compute_stream stream on which backward runs (a cudaStream_t), null on the CPU
  /// @param overlap        false: buckets leave in finish(); for measuring what overlap is worth
  /// @param team           runs the backward passes of the parts of a slice, at most one a member; null: one part
  /// @throws comm::CommError naming the ranks whose parameters differ from rank 0's; std::invalid_argument for other
  ///         ranks than the plan's, or when they are no power of two and the reduction is reproducible
  GradientReducer(ParameterArena& arena, comm::Communicator& communicator, comm::Communicator& control,
                  void* compute_stream, Reduction reduction = Reduction::fast, Wire wire = Wire::fp32,
                  bool overlap = true, ThreadTeam* team = nullptr);
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;
  ~GradientReducer();

  /// Leaves of the arena for the network of one part of a slice, in the order of the layout.
  const std::vector<at::Tensor>& leaves(std::size_t part) const { return leaves_.at(part); }

  /// Backward of one slice's losses, one for each of its parts (scalars, already divided by the global batch), made
  /// with leaves(part). Gradients of the parts are added in the order of the parts. The last slice of a step sends the
  /// buckets.
  /// @param slice   0 to slices - 1, in order   @param slices  of this rank in this step; reproducible: a power of two
  /// @throws std::logic_error naming a parameter that received no gradient
  void backward(std::span<const at::Tensor> losses, std::size_t slice, std::size_t slices);
  void backward(const at::Tensor& loss, std::size_t slice, std::size_t slices) {
    backward(std::span(&loss, 1), slice, slices);
  }
  /// Waits until the arena holds the gradient of the whole global batch: all of it, or where the plan is sharded what
  /// this rank owns.
  /// @throws comm::CommError
  void finish();

  /// Where this rank's own gradient of the last step, before the reduction, was not finite: the name of the first
  /// parameter found, or on a GPU of the bucket's; empty: it was finite.
  std::string non_finite_gradient() const;

  /// SHA-256 of layout and plan.
  const std::string& layout_hash() const { return layout_hash_; }

 private:
  bool last_slice() const { return slice_ + 1 == slices_; }
  void on_gradient(std::size_t range);
  /// Moves the gradients of all parts of a parameter into the arena.
  void keep(std::size_t range);
  /// Moves the gradient of slice_ into the tree of the slices before it; the last one completes the arena's.
  void add_in_tree(std::size_t range, const at::Tensor& fresh);
  void launch_full_buckets();
  /// Looks at the gradient of a bucket that is about to be summed with those of other ranks.
  void look_at(std::size_t bucket);

  ParameterArena& arena_;
  Reduction reduction_;
  bool overlap_;
  GradientExchange exchange_;
  std::string layout_hash_;
  std::vector<std::vector<std::size_t>> buckets_of_range_;
  std::vector<at::Tensor> gradient_views_;
  ThreadTeam* team_;
  std::vector<std::vector<at::Tensor>> leaves_;  // of each part
  struct Hook {
    std::shared_ptr<torch::autograd::Node> accumulator;  // lives as long as this; a parameter itself holds it weakly
    std::uintptr_t key;
  };
  std::vector<Hook> hooks_;

  std::size_t slice_ = 0, slices_ = 1, parts_ = 1;
  std::vector<std::atomic<std::size_t>> parts_missing_;  // per range: whose gradient has not arrived in this slice
  std::mutex arrivals_;                                  // what follows, while parts run backward
  std::vector<std::size_t> missing_;  // per bucket: parameters in it whose gradient has not arrived in this slice
  std::vector<bool> arrived_;         // per range
  std::size_t next_bucket_ = 0;
  std::vector<at::Tensor> bucket_sums_;  // of the own gradient: not finite where an element is not
  std::string non_finite_;               // the first parameter found so, on the CPU

  std::vector<at::Tensor> partial_sums_;  // flat, one for each level of the tree below its root; reproducible only
};

}  // namespace perrin::trainer
