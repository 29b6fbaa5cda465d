#include "trainer/optimize/gradient_reducer.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "data/sha256.hpp"
#include "trainer/same_on_all_ranks.hpp"

namespace perrin::trainer {
namespace {

/// The buckets that a parameter reaches into.
std::vector<std::size_t> buckets_of(const ParameterLayout::Range& range, const std::vector<Bucket>& buckets) {
  std::vector<std::size_t> found;
  for (std::size_t b = 0; b < buckets.size(); ++b)
    if (range.offset < buckets[b].offset + buckets[b].count && buckets[b].offset < range.offset + range.numel)
      found.push_back(b);
  return found;
}

}  // namespace

GradientReducer::GradientReducer(ParameterArena& arena, comm::Communicator& communicator, comm::Communicator& control,
                                 void* compute_stream, Reduction reduction, Wire wire, bool overlap, ThreadTeam* team)
    : arena_(arena),
      reduction_(reduction),
      overlap_(overlap),
      exchange_(arena, communicator, compute_stream, reduction, wire),
      layout_hash_(data::sha256_hex(arena.layout().description() + arena.plan().description())),
      team_(team),
      leaves_{arena.leaves()},
      parts_missing_(arena.layout().ranges().size()) {
  const auto ranks = static_cast<std::uint64_t>(communicator.size());
  if (reduction == Reduction::reproducible && !std::has_single_bit(ranks))
    throw std::invalid_argument("reproducible reduction needs a power of two of ranks, not " + std::to_string(ranks));
  require_same_on_all_ranks(control, layout_hash_, "the parameters or gradient buckets");

  for (std::size_t r = 0; r < arena.layout().ranges().size(); ++r) {
    buckets_of_range_.push_back(buckets_of(arena.layout().ranges()[r], arena.plan().buckets()));
    gradient_views_.push_back(arena.layout().view(arena.gradients(), arena.layout().ranges()[r]));
  }
  while (team != nullptr && leaves_.size() < team->size()) leaves_.push_back(arena.more_leaves());
  for (const std::vector<at::Tensor>& leaves : leaves_) {
    for (std::size_t r = 0; r < leaves.size(); ++r) {
      const auto accumulator = torch::autograd::impl::grad_accumulator(leaves[r]);
      hooks_.push_back(
          {accumulator, accumulator->add_post_hook(std::make_unique<torch::autograd::utils::LambdaPostHook>(
                            [this, r](const auto& outputs, const auto&) {
                              on_gradient(r);
                              return outputs;
                            }))});
    }
  }
}

GradientReducer::~GradientReducer() {
  for (const Hook& hook : hooks_) hook.accumulator->del_post_hook(hook.key);
}

void GradientReducer::backward(std::span<const at::Tensor> losses, std::size_t slice, std::size_t slices) {
  slice_ = slice;
  slices_ = slices;
  parts_ = losses.size();
  for (auto& missing : parts_missing_) missing.store(parts_, std::memory_order_relaxed);
  if (reduction_ == Reduction::reproducible)
    while (partial_sums_.size() < static_cast<std::size_t>(std::countr_zero(slices)))
      partial_sums_.push_back(at::zeros_like(arena_.gradients()));
  arrived_.assign(buckets_of_range_.size(), false);
  missing_.assign(arena_.plan().buckets().size(), 0);
  for (const auto& buckets : buckets_of_range_)
    for (const std::size_t b : buckets) ++missing_[b];
  next_bucket_ = 0;
  bucket_sums_.assign(missing_.size(), {});
  non_finite_.clear();
  if (parts_ == 1)
    losses.front().backward();
  else
    team_->run(parts_, [&](std::size_t part) { losses[part].backward(); });

  const auto unreached = std::find(arrived_.begin(), arrived_.end(), false);
  if (unreached != arrived_.end())
    throw std::logic_error("parameter '" +
                           arena_.layout().ranges()[static_cast<std::size_t>(unreached - arrived_.begin())].name +
                           "' received no gradient: the model's forward pass does not use it");
}

void GradientReducer::on_gradient(std::size_t range) {
  // Whoever brings the last one adds them up, so that only it waits.
  if (parts_missing_[range].fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  keep(range);
  const std::lock_guard lock(arrivals_);
  arrived_[range] = true;
  for (const std::size_t b : buckets_of_range_[range]) --missing_[b];
  if (last_slice() && overlap_) launch_full_buckets();
}

void GradientReducer::keep(std::size_t range) {
  const at::NoGradGuard no_grad;
  at::Tensor& view = gradient_views_[range];
  std::vector<at::Tensor> fresh;
  for (std::size_t part = 0; part < parts_; ++part)
    fresh.push_back(std::exchange(leaves_[part][range].mutable_grad(), at::Tensor()));
  if (parts_ > 1) fresh[0] = fresh[0].to(at::kFloat);  // the sum of two of bfloat16 is no bfloat16
  for (std::size_t part = 1; part + 1 < parts_; ++part) fresh[0] = fresh[0] + fresh[part];
  if (reduction_ == Reduction::fast && slice_ == 0 && parts_ > 1) {
    at::add_out(view, fresh.front(), fresh.back());
    return;
  }
  const at::Tensor sum = parts_ > 1 ? fresh.front() + fresh.back() : fresh.front();
  if (reduction_ == Reduction::reproducible)
    add_in_tree(range, sum);
  else if (slice_ == 0)
    view.copy_(sum);
  else
    view.add_(sum);
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
  arena_.layout().view(partial_sums_[level], place).copy_(sum);
}

void GradientReducer::launch_full_buckets() {
  for (; next_bucket_ < missing_.size() && missing_[next_bucket_] == 0; ++next_bucket_) {
    look_at(next_bucket_);
    exchange_.send(next_bucket_);
  }
}

void GradientReducer::look_at(std::size_t bucket) {
  const at::NoGradGuard no_grad;
  const Bucket& range = arena_.plan().buckets()[bucket];
  bucket_sums_[bucket] = arena_.gradients().narrow(0, range.offset, range.count).sum();
  // The host may look where that costs no wait; the parameters are told apart now or never.
  if (!bucket_sums_[bucket].is_cpu() || std::isfinite(bucket_sums_[bucket].item<float>()) || !non_finite_.empty())
    return;
  for (std::size_t r = 0; r < gradient_views_.size(); ++r) {
    const auto& of_range = buckets_of_range_[r];
    if (std::find(of_range.begin(), of_range.end(), bucket) == of_range.end()) continue;
    if (gradient_views_[r].isfinite().all().item<bool>()) continue;
    non_finite_ = arena_.layout().ranges()[r].name;
    return;
  }
}

std::string GradientReducer::non_finite_gradient() const {
  if (!non_finite_.empty()) return non_finite_;
  for (std::size_t b = 0; b < bucket_sums_.size(); ++b) {
    if (!bucket_sums_[b].defined() || std::isfinite(bucket_sums_[b].item<float>())) continue;
    for (std::size_t r = 0; r < buckets_of_range_.size(); ++r)
      if (std::find(buckets_of_range_[r].begin(), buckets_of_range_[r].end(), b) != buckets_of_range_[r].end())
        return arena_.layout().ranges()[r].name + " or one near it";
  }
  return "";
}

void GradientReducer::finish() {
  if (!overlap_) launch_full_buckets();
  exchange_.finish();
}

}  // namespace perrin::trainer
