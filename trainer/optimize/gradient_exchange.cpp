#include "trainer/optimize/gradient_exchange.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <stdexcept>

namespace perrin::trainer {
namespace {

/// Row 0 becomes the sum of all rows, neighbours first: for four (r0 + r1) + (r2 + r3). @param rows [n, m], overwritten
at::Tensor sum_in_tree(const at::Tensor& rows) {
  const std::int64_t count = rows.size(0);
  for (std::int64_t distance = 1; distance < count; distance *= 2)
    for (std::int64_t r = 0; r + distance < count; r += 2 * distance) rows[r].add_(rows[r + distance]);
  return rows[0];
}

}  // namespace

GradientExchange::GradientExchange(ParameterArena& arena, comm::Communicator& communicator, void* compute_stream,
                                   Reduction reduction, Wire wire)
    : arena_(arena),
      communicator_(communicator),
      compute_stream_(compute_stream),
      wire_(wire),
      in_parts_(communicator.size() > 1 && (reduction == Reduction::reproducible || wire == Wire::bf16)),
      parts_(in_parts_ ? arena.plan().buckets().size() : 0) {
  if (communicator.size() != arena.plan().ranks() || communicator.rank() != arena.plan().rank())
    throw std::invalid_argument(fmt::format("the arena is cut for rank {} of {}, the communicator has rank {} of {}",
                                            arena.plan().rank(), arena.plan().ranks(), communicator.rank(),
                                            communicator.size()));
}

at::Tensor GradientExchange::gradients_of(std::size_t bucket) const {
  const Bucket& range = arena_.plan().buckets()[bucket];
  return arena_.gradients().narrow(0, range.offset, range.count);
}

void GradientExchange::send(std::size_t bucket) {
  sent_.push_back({bucket, in_parts_ ? exchange(bucket) : reduce(bucket)});
}

comm::Work GradientExchange::reduce(std::size_t bucket) {
  const Bucket& range = arena_.plan().buckets()[bucket];
  float* data = arena_.gradients().mutable_data_ptr<float>() + range.offset;
  if (!arena_.plan().sharded())
    return communicator_.all_reduce(data, static_cast<std::size_t>(range.count), comm::DataType::float32,
                                    comm::ReduceOp::sum, compute_stream_);
  const std::int64_t part = range.count / communicator_.size();
  return communicator_.reduce_scatter(data, data + communicator_.rank() * part, static_cast<std::size_t>(part),
                                      comm::DataType::float32, comm::ReduceOp::sum, compute_stream_);
}

comm::Work GradientExchange::exchange(std::size_t bucket) {
  const at::NoGradGuard no_grad;
  Parts& parts = parts_[bucket];
  const at::Tensor gradients = gradients_of(bucket);
  const std::int64_t ranks = communicator_.size(), part = gradients.numel() / ranks;
  const bool bf16 = wire_ == Wire::bf16;
  if (!parts.received.defined()) {
    const auto options = gradients.options().dtype(bf16 ? at::kBFloat16 : at::kFloat);
    parts.received = at::empty({ranks, part}, options);
    if (bf16) parts.rounded = at::empty({ranks * part}, options);
  }
  if (bf16) parts.rounded.copy_(gradients);
  return communicator_.all_to_all(bf16 ? parts.rounded.const_data_ptr() : gradients.const_data_ptr(),
                                  parts.received.mutable_data_ptr(), static_cast<std::size_t>(part),
                                  bf16 ? comm::DataType::bfloat16 : comm::DataType::float32, compute_stream_);
}

void GradientExchange::add_parts(std::size_t bucket) {
  const at::Tensor& received = parts_[bucket].received;
  gradients_of(bucket).view({communicator_.size(), -1})[communicator_.rank()].copy_(
      sum_in_tree(received.to(at::kFloat)));
}

comm::Work GradientExchange::spread(std::size_t bucket) {
  at::Tensor whole = gradients_of(bucket);
  const std::int64_t part = whole.numel() / communicator_.size(), first = communicator_.rank() * part;
  const bool bf16 = wire_ == Wire::bf16;
  if (bf16) {
    parts_[bucket].rounded.narrow(0, first, part).copy_(whole.narrow(0, first, part));
    whole = parts_[bucket].rounded;
  }
  return communicator_.all_gather(whole.narrow(0, first, part).const_data_ptr(), whole.mutable_data_ptr(),
                                  static_cast<std::size_t>(part),
                                  bf16 ? comm::DataType::bfloat16 : comm::DataType::float32, compute_stream_);
}

void GradientExchange::finish() {
  const at::NoGradGuard no_grad;
  // The host waits, with the communicator's deadline: the clipping that follows needs the norm on the host anyway.
  const bool spreads = in_parts_ && !arena_.plan().sharded();
  for (Sent& sent : sent_) {
    sent.work.wait();
    if (in_parts_) add_parts(sent.bucket);
    if (spreads) sent.work = spread(sent.bucket);
  }
  for (Sent& sent : sent_) {
    sent.work.wait();
    if (spreads && wire_ == Wire::bf16) gradients_of(sent.bucket).copy_(parts_[sent.bucket].rounded);
  }
  sent_.clear();
}

}  // namespace perrin::trainer
