#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
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
class GradientReducer {
 public:
  /// Compares layout and buckets over `control` first.
  /// @param bucket_bytes cap of one bucket
  /// @param compute_stream stream on which backward runs (a cudaStream_t), null on the CPU
  /// @throws comm::CommError naming the ranks whose parameters differ from rank 0's
  GradientReducer(ParameterArena& arena, comm::Communicator& communicator, comm::Communicator& control,
                  std::int64_t bucket_bytes, void* compute_stream);
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;
  ~GradientReducer();

  /// Backward of one slice's loss (a scalar, already divided by the global batch). The last slice of a step sends the
  /// buckets.
  /// @throws std::logic_error naming a parameter that received no gradient
  void backward(const at::Tensor& loss, bool first_slice, bool last_slice);
  /// Waits until the arena holds the gradient of the whole global batch.
  /// @throws comm::CommError
  void finish();

  const std::vector<Bucket>& buckets() const { return buckets_; }
  /// SHA-256 of layout and buckets.
  const std::string& layout_hash() const { return layout_hash_; }

 private:
  void on_gradient(std::size_t range);
  void launch_full_buckets();

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

  bool first_slice_ = true, last_slice_ = false;
  std::vector<std::size_t> missing_;  // per bucket: gradients that have not arrived in this slice
  std::vector<bool> arrived_;         // per range
  std::size_t next_bucket_ = 0;
  std::vector<comm::Work> works_;
};

}  // namespace perrin::trainer
