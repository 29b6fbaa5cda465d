#include "trainer/evaluate/feature_statistics.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

namespace perrin::trainer {

FeatureStatistics::FeatureStatistics(std::int64_t dimension) : dimension_(dimension) {
  if (dimension < 1) throw std::invalid_argument("features have at least one dimension");
  mean_ = at::zeros({dimension}, at::kDouble);
  scatter_ = at::zeros({dimension, dimension}, at::kDouble);
  pending_ = at::empty({kBlockRows, dimension}, at::kDouble);
}

void FeatureStatistics::add(const at::Tensor& features) {
  if (features.dim() != 2 || features.size(1) != dimension_)
    throw std::invalid_argument("features are [N, " + std::to_string(dimension_) + "]");
  const at::Tensor rows = features.detach().cpu().to(at::kDouble);
  for (std::int64_t taken = 0; taken < rows.size(0);) {
    const std::int64_t count = std::min(kBlockRows - pending_rows_, rows.size(0) - taken);
    pending_.narrow(0, pending_rows_, count).copy_(rows.narrow(0, taken, count));
    pending_rows_ += count;
    taken += count;
    if (pending_rows_ == kBlockRows) {
      merge(pending_);
      pending_rows_ = 0;
    }
  }
}

void FeatureStatistics::merge(const at::Tensor& block) {
  const auto before = static_cast<double>(count_), rows = static_cast<double>(block.size(0));
  const double after = before + rows;
  const at::Tensor block_mean = block.mean(0);
  const at::Tensor centred = block - block_mean;
  const at::Tensor delta = block_mean - mean_;
  // Not in place: copies of this object share their tensors.
  scatter_ = scatter_ + centred.t().mm(centred) + at::outer(delta, delta) * (before * rows / after);
  mean_ = mean_ + delta * (rows / after);
  count_ += block.size(0);
}

FeatureStatistics FeatureStatistics::finished() const {
  FeatureStatistics all = *this;
  if (pending_rows_ > 0) all.merge(pending_.narrow(0, 0, pending_rows_));
  all.pending_rows_ = 0;
  return all;
}

at::Tensor FeatureStatistics::mean() const {
  if (count() < 1) throw std::invalid_argument("no features, no mean");
  return finished().mean_;
}

at::Tensor FeatureStatistics::covariance() const {
  if (count() < 2) throw std::invalid_argument("a covariance needs two features at least");
  const at::Tensor scatter = finished().scatter_;
  return (scatter + scatter.t()) / (2 * static_cast<double>(count() - 1));
}

GaussianFit fit_of(const FeatureStatistics& statistics) { return {statistics.mean(), statistics.covariance()}; }

GaussianFit fit_of(const at::Tensor& features) {
  FeatureStatistics statistics(features.size(1));
  statistics.add(features);
  return fit_of(statistics);
}

}  // namespace perrin::trainer
