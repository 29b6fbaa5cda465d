#include "trainer/optimize/shard_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "trainer/optimize/gradient_norm.hpp"

namespace perrin::trainer {
namespace {

constexpr std::int64_t kFirstBucketBytes = std::int64_t{1} << 20;  // small: the first collective starts early
constexpr auto kFloatBytes = static_cast<std::int64_t>(sizeof(float));

}  // namespace

ShardOptions shard_options(const Config& config, int rank, int ranks) {
  return {.rank = rank,
          .ranks = ranks,
          .bucket_bytes = static_cast<std::int64_t>(config.distributed.bucket_mib * 1024 * 1024),
          .shard = config.optimizer.shard};
}

ShardPlan::ShardPlan(const ParameterLayout& layout, const ShardOptions& options) : options_(options) {
  if (options.rank < 0 || options.rank >= options.ranks)
    throw std::invalid_argument(fmt::format("no rank {} of {}", options.rank, options.ranks));
  const std::int64_t unit = options.ranks * kNormBlock;
  size_ = (layout.size() + unit - 1) / unit * unit;
  for (std::int64_t end = size_; end > 0; end = buckets_.back().offset) {
    const std::int64_t cap =
        buckets_.empty() ? std::min(kFirstBucketBytes, options.bucket_bytes) : options.bucket_bytes;
    const std::int64_t count = std::min(std::max(cap / kFloatBytes / unit * unit, unit), end);
    buckets_.push_back({end - count, count});
  }
}

std::vector<Segment> ShardPlan::segments_of(int rank) const {
  if (!sharded()) return {{0, 0, size_}};
  std::vector<Segment> segments;
  std::int64_t state = 0;
  for (const Bucket& bucket : buckets_) {
    const std::int64_t part = bucket.count / ranks();
    segments.push_back({bucket.offset + rank * part, state, part});
    state += part;
  }
  return segments;
}

std::string ShardPlan::description() const {
  std::string text = fmt::format("{} ranks{}\n", ranks(), sharded() ? ", sharded" : "");
  for (const Bucket& bucket : buckets_) text += fmt::format("{}+{}\n", bucket.offset, bucket.count);
  return text;
}

}  // namespace perrin::trainer
