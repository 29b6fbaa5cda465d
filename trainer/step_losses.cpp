#include "trainer/step_losses.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace perrin::trainer {
namespace {

static_assert(LossWindow::kQuartiles == 4);

std::vector<double> on_host(const at::Tensor& values) {
  const at::Tensor host = values.detach().to(at::kDouble).cpu().contiguous();
  return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel()};
}

}  // namespace

StepLosses::StepLosses(std::int64_t global_batch, bool keep_each)
    : global_batch_(static_cast<double>(global_batch)),
      sums_(kEach + static_cast<std::size_t>(keep_each ? global_batch : 0), 0.0) {}

void StepLosses::add(const ObjectiveTerms& terms, const LevelDraw& draw, std::int64_t offset) {
  const std::vector<double> loss = on_host(terms.loss), simple = on_host(terms.simple);
  const std::vector<double> bound = terms.bound.defined() ? on_host(terms.bound) : std::vector<double>(loss.size(), 0);
  for (std::size_t i = 0; i < loss.size(); ++i) {
    const double weight = draw.weights[i];
    sums_[kLoss] += weight * loss[i] / global_batch_;
    sums_[kSimple] += weight * simple[i] / global_batch_;
    sums_[kBound] += weight * bound[i] / global_batch_;
    const auto quartile = std::min<std::size_t>(static_cast<std::size_t>(4 * draw.quantiles[i]), 3);
    sums_[kQuartileSums + quartile] += weight * loss[i];
    sums_[kQuartileWeights + quartile] += weight;
    if (sums_.size() > kEach) sums_[kEach + static_cast<std::size_t>(offset) + i] = loss[i];
  }
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
