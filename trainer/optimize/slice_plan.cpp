#include "trainer/optimize/slice_plan.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace perrin::trainer {

SlicePlan::SlicePlan(std::int64_t global_batch, int ranks, std::int64_t micro_batch, std::int64_t shards)
    : global_batch_(global_batch), ranks_(ranks), micro_batch_(micro_batch), shards_(shards) {
  if (ranks < 1 || micro_batch < 0)
    throw std::invalid_argument("SlicePlan: ranks must be positive and micro_batch not negative");
  if (global_batch < ranks)
    throw std::invalid_argument("the global batch of " + std::to_string(global_batch) + " images is smaller than the " +
                                std::to_string(ranks) + " ranks; raise train.batch_size or start fewer ranks");
  if (shards > 0 && (shards > global_batch || shards % ranks != 0))
    throw std::invalid_argument(std::to_string(shards) + " shards do not fit " + std::to_string(ranks) +
                                " ranks and a global batch of " + std::to_string(global_batch));
}

SlicePlan::SlicePlan(const Config& config, int ranks)
    : SlicePlan(config.train.batch_size, ranks, config.train.micro_batch,
                config.distributed.reduction == Reduction::reproducible ? config.distributed.shards : 0) {}

std::vector<Slice> SlicePlan::slices_of(int rank) const {
  if (shards_ > 0) {
    const std::int64_t own = shards_ / ranks_;
    std::vector<Slice> slices;
    for (std::int64_t shard = rank * own; shard < (rank + 1) * own; ++shard) {
      const std::int64_t from = shard * global_batch_ / shards_, to = (shard + 1) * global_batch_ / shards_;
      slices.push_back({from, to - from});
    }
    return slices;
  }
  const std::int64_t begin = rank * global_batch_ / ranks_;
  const std::int64_t share = (rank + 1) * global_batch_ / ranks_ - begin;
  const std::int64_t pieces = micro_batch_ == 0 ? 1 : (share + micro_batch_ - 1) / micro_batch_;
  std::vector<Slice> slices;
  for (std::int64_t i = 0; i < pieces; ++i) {
    const std::int64_t from = i * share / pieces, to = (i + 1) * share / pieces;
    slices.push_back({begin + from, to - from});
  }
  return slices;
}

std::int64_t SlicePlan::largest_slice() const {
  std::int64_t largest = 0;
  for (int rank = 0; rank < ranks_; ++rank)
    for (const Slice& slice : slices_of(rank)) largest = std::max(largest, slice.count);
  return largest;
}

}  // namespace perrin::trainer
