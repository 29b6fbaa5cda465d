#include "trainer/optimize/shard_gather.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace perrin::trainer {

comm::Work ShardGather::gather(std::size_t bucket, const float* own, float* whole) const {
  const Bucket& range = arena_.plan().buckets()[bucket];
  return communicator_.all_gather(own, whole + range.offset,
                                  static_cast<std::size_t>(range.count / arena_.plan().ranks()),
                                  comm::DataType::float32, compute_stream_);
}

void ShardGather::send_weights(std::size_t segment) {
  if (!arena_.plan().sharded()) return;
  float* weights = arena_.weights().mutable_data_ptr<float>();
  works_.push_back(gather(segment, weights + arena_.plan().own()[segment].arena_offset, weights));
}

void ShardGather::finish() {
  if (works_.empty()) return;
  for (comm::Work& work : works_) work.wait();
  works_.clear();
  arena_.refresh_copy();
}

void ShardGather::collect(const PersistentBuffer& buffer, std::int64_t begin, std::int64_t end,
                          const at::Tensor& into) const {
  const ShardPlan& plan = arena_.plan();
  if (!buffer.is_state || !plan.sharded()) {
    into.copy_(buffer.values.narrow(0, begin, end - begin));
    return;
  }
  const std::vector<Segment> own = plan.own();
  for (std::size_t b = 0; b < own.size(); ++b) {
    const Bucket& bucket = plan.buckets()[b];
    const at::Tensor whole = at::empty({bucket.count}, buffer.values.options());
    communicator_
        .all_gather(buffer.values.const_data_ptr<float>() + own[b].state_offset, whole.mutable_data_ptr<float>(),
                    static_cast<std::size_t>(own[b].count), comm::DataType::float32, compute_stream_)
        .wait(kLongWork);
    const std::int64_t first = std::max(begin, bucket.offset), last = std::min(end, bucket.offset + bucket.count);
    if (first < last)
      into.narrow(0, first - begin, last - first).copy_(whole.narrow(0, first - bucket.offset, last - first));
  }
}

at::Tensor ShardGather::materialise(const PersistentBuffer& buffer, std::chrono::milliseconds deadline) const {
  const ShardPlan& plan = arena_.plan();
  if (!buffer.is_state || !plan.sharded()) return buffer.values;
  at::Tensor whole = at::empty({plan.size()}, buffer.values.options());
  const std::vector<Segment> own = plan.own();
  std::vector<comm::Work> works;
  for (std::size_t b = 0; b < own.size(); ++b)
    works.push_back(
        gather(b, buffer.values.const_data_ptr<float>() + own[b].state_offset, whole.mutable_data_ptr<float>()));
  for (comm::Work& work : works) work.wait(deadline);
  return whole;
}

}  // namespace perrin::trainer
