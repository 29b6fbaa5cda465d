#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config.hpp"
#include "trainer/optimize/parameter_layout.hpp"

namespace perrin::trainer {

/// A contiguous range of the arena that is reduced over the ranks in one collective.
struct Bucket {
  std::int64_t offset = 0;  ///< elements
  std::int64_t count = 0;   ///< a multiple of ranks * kNormBlock
};

/// A run of elements that one rank updates.
struct Segment {
  std::int64_t arena_offset = 0;  ///< in weights and gradients
  std::int64_t state_offset = 0;  ///< in Adam's moments and the EMAs of the rank
  std::int64_t count = 0;
};

/// How the arena is cut for one rank of a run; the defaults are one rank alone.
struct ShardOptions {
  int rank = 0;
  int ranks = 1;
  std::int64_t bucket_bytes = std::int64_t{4} << 20;  ///< cap of one bucket
  bool shard = false;                                 ///< ZeRO-1: optimizer state of this rank's parts alone
};

/// As the configuration says.
ShardOptions shard_options(const Config& config, int rank, int ranks);

/// Which elements of the arena are reduced together, and who updates which. Buckets are cut from the arena's end,
/// where backward begins, without regard to parameters: each is a whole number of blocks of the gradient norm for
/// every rank, so that it falls into `ranks` equal parts without a copy. What the last one lacks is a tail of zeros.
/// Sharded, as ZeRO stage 1 (Rajbhandari et al. 2020, section 5), rank r owns part r of every bucket; else every rank
/// owns the whole arena as one segment. A pure function of its arguments.
class ShardPlan {
 public:
  /// @throws std::invalid_argument unless 0 <= rank < ranks
  ShardPlan(const ParameterLayout& layout, const ShardOptions& options);

  int rank() const { return options_.rank; }
  int ranks() const { return options_.ranks; }
  bool sharded() const { return options_.shard && options_.ranks > 1; }
  /// Elements of the weights and of the gradients, tail included.
  std::int64_t size() const { return size_; }
  /// Elements of one buffer of a rank's optimizer state: size(), or size() / ranks() of a sharded one.
  std::int64_t state_size() const { return sharded() ? size_ / ranks() : size_; }
  /// In the order they leave: from the arena's end. The first one is small, so that the first collective starts early.
  const std::vector<Bucket>& buckets() const { return buckets_; }
  /// What a rank owns, by rising state_offset; sharded: segment i lies in bucket i.
  std::vector<Segment> segments_of(int rank) const;
  std::vector<Segment> own() const { return segments_of(rank()); }
  /// What ranks compare by hash.
  std::string description() const;

 private:
  ShardOptions options_;
  std::int64_t size_ = 0;
  std::vector<Bucket> buckets_;
};

}  // namespace perrin::trainer
