#include "trainer/optimize/gradient_reducer.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "data/sha256.hpp"
#include "trainer/same_on_all_ranks.hpp"

namespace perrin::trainer {
namespace {

constexpr std::int64_t kFirstBucketBytes = std::int64_t{1} << 20;  // small: the first all-reduce starts early
constexpr auto kFloatBytes = static_cast<std::int64_t>(sizeof(float));

std::string describe(const ParameterLayout& layout, const std::vector<Bucket>& buckets) {
  std::string text = layout.description();
  for (const Bucket& bucket : buckets)
    text += std::to_string(bucket.offset) + "+" + std::to_string(bucket.count) + "\n";
  return text;
}

}  // namespace

std::vector<Bucket> cut_buckets(const ParameterLayout& layout, std::int64_t cap_bytes) {
  std::vector<Bucket> buckets;
  const auto& ranges = layout.ranges();
  std::int64_t end = layout.size();
  std::size_t last = ranges.size();
  for (std::size_t i = ranges.size(); i-- > 0;) {
    const std::int64_t cap = buckets.empty() ? std::min(kFirstBucketBytes, cap_bytes) : cap_bytes;
    // A bucket closes before the range that would overfill it; a single range larger than the cap is a bucket of its
    // own.
    if (last != ranges.size() && (end - ranges[i].offset) * kFloatBytes > cap) {
      buckets.push_back({ranges[i + 1].offset, end - ranges[i + 1].offset, i + 1, last});
      end = ranges[i + 1].offset;
      last = ranges.size();
    }
    if (last == ranges.size()) last = i;
  }
  if (last != ranges.size()) buckets.push_back({0, end, 0, last});
  return buckets;
}

GradientReducer::GradientReducer(ParameterArena& arena, comm::Communicator& communicator, comm::Communicator& control,
                                 std::int64_t bucket_bytes, void* compute_stream, Reduction reduction, bool overlap)
    : arena_(arena),
      communicator_(communicator),
      compute_stream_(compute_stream),
      buckets_(cut_buckets(arena.layout(), bucket_bytes)),
      layout_hash_(data::sha256_hex(describe(arena.layout(), buckets_))),
      reduction_(reduction),
      overlap_(overlap) {
  const auto ranks = static_cast<std::uint64_t>(communicator.size());
  if (reduction == Reduction::reproducible && !std::has_single_bit(ranks))
    throw std::invalid_argument("reproducible reduction needs a power of two of ranks, not " + std::to_string(ranks));
  require_same_on_all_ranks(control, layout_hash_, "the parameters or gradient buckets");

  bucket_of_range_.resize(arena.layout().ranges().size());
  for (std::size_t b = 0; b < buckets_.size(); ++b)
    for (std::size_t r = buckets_[b].first_range; r <= buckets_[b].last_range; ++r) bucket_of_range_[r] = b;
  for (std::size_t r = 0; r < bucket_of_range_.size(); ++r) {
    gradient_views_.push_back(arena.layout().view(arena.gradients(), arena.layout().ranges()[r]));
    accumulators_.push_back(torch::autograd::impl::grad_accumulator(arena.leaves()[r]));
    hook_keys_.push_back(accumulators_.back()->add_post_hook(
        std::make_unique<torch::autograd::utils::LambdaPostHook>([this, r](const auto& outputs, const auto&) {
          on_gradient(r);
          return outputs;
        })));
  }
}

GradientReducer::~GradientReducer() {
  for (std::size_t r = 0; r < accumulators_.size(); ++r) accumulators_[r]->del_post_hook(hook_keys_[r]);
}

void GradientReducer::backward(const at::Tensor& loss, std::size_t slice, std::size_t slices) {
  slice_ = slice;
  slices_ = slices;
  arrived_.assign(bucket_of_range_.size(), false);
  missing_.resize(buckets_.size());
  for (std::size_t b = 0; b < buckets_.size(); ++b) missing_[b] = buckets_[b].last_range - buckets_[b].first_range + 1;
  next_bucket_ = 0;
  loss.backward();

  const auto unreached = std::find(arrived_.begin(), arrived_.end(), false);
  if (unreached != arrived_.end())
    throw std::logic_error("parameter '" +
                           arena_.layout().ranges()[static_cast<std::size_t>(unreached - arrived_.begin())].name +
                           "' received no gradient: the model's forward pass does not use it");
}

void GradientReducer::on_gradient(std::size_t range) {
  at::Tensor& fresh = const_cast<at::Tensor&>(arena_.leaves()[range]).mutable_grad();
  {
    const at::NoGradGuard no_grad;
    if (reduction_ == Reduction::reproducible)
      add_in_tree(range, fresh);
    else if (slice_ == 0)
      gradient_views_[range].copy_(fresh);
    else
      gradient_views_[range].add_(fresh);
  }
  fresh.reset();
  arrived_[range] = true;
  --missing_[bucket_of_range_[range]];
  if (last_slice() && overlap_) launch_full_buckets();
}

void GradientReducer::add_in_tree(std::size_t range, const at::Tensor& fresh) {
  const ParameterLayout::Range& place = arena_.layout().ranges()[range];
  // As a binary counter carries: slice k completes one subtree for each trailing 1 of k.
  at::Tensor sum = fresh;
  std::size_t level = 0;
  for (std::size_t carry = slice_; (carry & 1) != 0; carry >>= 1, ++level)
    sum = arena_.layout().view(partial_sums_[level], place) + sum;
  if (last_slice()) {
    gradient_views_[range].copy_(sum);
    return;
  }
  while (partial_sums_.size() <= level) partial_sums_.push_back(at::zeros_like(arena_.gradients()));
  arena_.layout().view(partial_sums_[level], place).copy_(sum);
}

void GradientReducer::launch_full_buckets() {
  float* gradients = arena_.gradients().mutable_data_ptr<float>();
  for (; next_bucket_ < buckets_.size() && missing_[next_bucket_] == 0; ++next_bucket_) {
    const Bucket& bucket = buckets_[next_bucket_];
    if (reduction_ == Reduction::fast)
      works_.push_back(communicator_.all_reduce(gradients + bucket.offset, static_cast<std::size_t>(bucket.count),
                                                comm::DataType::float32, comm::ReduceOp::sum, compute_stream_));
    else if (communicator_.size() > 1)
      works_.push_back(exchange_pieces(next_bucket_));
  }
}

comm::Work GradientReducer::exchange_pieces(std::size_t bucket) {
  const at::NoGradGuard no_grad;
  exchanges_.resize(buckets_.size());
  Exchange& exchange = exchanges_[bucket];
  const std::int64_t ranks = communicator_.size(), count = buckets_[bucket].count, piece = (count + ranks - 1) / ranks;
  if (!exchange.padded.defined()) {
    exchange.padded = at::zeros({ranks * piece}, arena_.gradients().options());
    exchange.pieces = at::empty({ranks, piece}, arena_.gradients().options());
  }
  exchange.padded.narrow(0, 0, count).copy_(arena_.gradients().narrow(0, buckets_[bucket].offset, count));
  return communicator_.all_to_all(exchange.padded.const_data_ptr<float>(), exchange.pieces.mutable_data_ptr<float>(),
                                  static_cast<std::size_t>(piece), comm::DataType::float32, compute_stream_);
}

comm::Work GradientReducer::gather_sum(std::size_t bucket) {
  Exchange& exchange = exchanges_[bucket];
  exchange.sum = exchange.pieces;
  for (std::int64_t rows = exchange.sum.size(0); rows > 1; rows /= 2)
    exchange.sum = exchange.sum.slice(0, 0, rows, 2) + exchange.sum.slice(0, 1, rows, 2);
  return communicator_.all_gather(exchange.sum.const_data_ptr<float>(), exchange.padded.mutable_data_ptr<float>(),
                                  static_cast<std::size_t>(exchange.sum.numel()), comm::DataType::float32,
                                  compute_stream_);
}

void GradientReducer::finish() {
  const at::NoGradGuard no_grad;
  if (!overlap_) launch_full_buckets();
  // The host waits, with the communicator's deadline: the clipping that follows needs the norm on the host anyway.
  if (reduction_ == Reduction::reproducible) {
    for (std::size_t b = 0; b < works_.size(); ++b) {
      works_[b].wait();
      works_[b] = gather_sum(b);
    }
  }
  for (comm::Work& work : works_) work.wait();
  if (reduction_ == Reduction::reproducible) {
    for (std::size_t b = 0; b < works_.size(); ++b)
      arena_.gradients()
          .narrow(0, buckets_[b].offset, buckets_[b].count)
          .copy_(exchanges_[b].padded.narrow(0, 0, buckets_[b].count));
  }
  works_.clear();
}

}  // namespace perrin::trainer
