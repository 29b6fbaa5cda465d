#include "trainer/step_losses.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <span>

namespace perrin::trainer {
namespace {

std::vector<double> on_host(const at::Tensor& values) {
  const at::Tensor host = values.detach().to(at::kDouble).cpu().contiguous();
  return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel()};
}

}  // namespace

StepLosses::StepLosses(std::int64_t global_batch, bool keep_each)
    : global_batch_(static_cast<double>(global_batch)),
      sums_(kEach + static_cast<std::size_t>(keep_each ? global_batch : 0), 0.0) {}

void StepLosses::add(const ObjectiveTerms& terms, const LevelDraw& draw, std::int64_t offset) {
  const auto images = static_cast<std::size_t>(terms.loss.size(0));
  const at::Tensor none = at::zeros_like(terms.loss);
  // One copy from the device for all three.
  const std::vector<double> all =
      on_host(at::cat({terms.loss, terms.simple, terms.bound.defined() ? terms.bound : none}));
  const std::span loss(all.data(), images), simple(all.data() + images, images), bound(all.data() + 2 * images, images);
  for (std::size_t i = 0; i < images; ++i) {
    const double weight = draw.weights[i];
    sums_[kLoss] += weight * loss[i] / global_batch_;
    sums_[kSimple] += weight * simple[i] / global_batch_;
    sums_[kBound] += weight * bound[i] / global_batch_;
    const auto quartile =
        std::min(static_cast<std::size_t>(LossWindow::kQuartiles * draw.quantiles[i]), LossWindow::kQuartiles - 1);
    sums_[kQuartileSums + quartile] += weight * loss[i];
    sums_[kQuartileWeights + quartile] += weight;
    if (sums_.size() > kEach) sums_[kEach + static_cast<std::size_t>(offset) + i] = loss[i];
  }
}

void StepLosses::add_up(comm::Communicator& control, Votes& votes) {
  std::copy(votes.counts().begin(), votes.counts().end(), sums_.begin());
  control.all_reduce(std::span<double>(sums_), comm::ReduceOp::sum).wait();
  std::copy_n(sums_.begin(), kVotes, votes.counts().begin());
}

void StepLosses::add_to(LossWindow& window) const {
  window.sum += sums_[kLoss];
  window.simple += sums_[kSimple];
  window.bound += sums_[kBound];
  ++window.count;
  for (std::size_t q = 0; q < LossWindow::kQuartiles; ++q) {
    window.quartile_sums[q] += sums_[kQuartileSums + q];
    window.quartile_weights[q] += sums_[kQuartileWeights + q];
  }
}

void StepLosses::add_to(LossHistory& history, const std::vector<std::int64_t>& t) const {
  for (std::size_t i = 0; i < t.size(); ++i) history.observe(t[i], sums_.at(kEach + i));
}

}  // namespace perrin::trainer
