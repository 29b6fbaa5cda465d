#include "trainer/optimize/gradient_reducer.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
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
                                 std::int64_t bucket_bytes, void* compute_stream)
    : arena_(arena),
      communicator_(communicator),
      compute_stream_(compute_stream),
      buckets_(cut_buckets(arena.layout(), bucket_bytes)),
      layout_hash_(data::sha256_hex(describe(arena.layout(), buckets_))) {
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

void GradientReducer::backward(const at::Tensor& loss, bool first_slice, bool last_slice) {
  first_slice_ = first_slice;
  last_slice_ = last_slice;
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
    if (first_slice_)
      gradient_views_[range].copy_(fresh);
    else
      gradient_views_[range].add_(fresh);
  }
  fresh.reset();
  arrived_[range] = true;
  --missing_[bucket_of_range_[range]];
  if (last_slice_) launch_full_buckets();
}

void GradientReducer::launch_full_buckets() {
  float* gradients = arena_.gradients().mutable_data_ptr<float>();
  for (; next_bucket_ < buckets_.size() && missing_[next_bucket_] == 0; ++next_bucket_) {
    const Bucket& bucket = buckets_[next_bucket_];
    works_.push_back(communicator_.all_reduce(gradients + bucket.offset, static_cast<std::size_t>(bucket.count),
                                              comm::DataType::float32, comm::ReduceOp::sum, compute_stream_));
  }
}

void GradientReducer::finish() {
  // The host waits, with the communicator's deadline: the clipping that follows needs the norm on the host anyway.
  for (comm::Work& work : works_) work.wait();
  works_.clear();
}

}  // namespace perrin::trainer
