#include "trainer/diffusion/loss_history.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace perrin::trainer {

LossHistory::LossHistory(std::int64_t timesteps)
    : losses_(static_cast<std::size_t>(timesteps * kLength), 0.0), counts_(static_cast<std::size_t>(timesteps), 0) {}

LossHistory::LossHistory(std::vector<double> losses, std::vector<std::int64_t> counts)
    : losses_(std::move(losses)), counts_(std::move(counts)) {
  const bool in_range =
      std::all_of(counts_.begin(), counts_.end(), [](std::int64_t count) { return count >= 0 && count <= kLength; });
  if (losses_.size() != counts_.size() * static_cast<std::size_t>(kLength) || !in_range)
    throw std::invalid_argument("a loss history of " + std::to_string(losses_.size()) + " losses for " +
                                std::to_string(counts_.size()) + " timesteps is not one of " + std::to_string(kLength) +
                                " each");
}

void LossHistory::observe(std::int64_t t, double loss) {
  if (!std::isfinite(loss)) return;
  std::int64_t& count = counts_.at(static_cast<std::size_t>(t));
  const auto row = losses_.begin() + t * kLength;
  if (count == kLength)
    std::rotate(row, row + 1, row + kLength);
  else
    ++count;
  row[count - 1] = loss;
}

std::vector<double> LossHistory::probabilities() const {
  const double T = static_cast<double>(timesteps());
  std::vector<double> weights(counts_.size(), 1);
  if (std::all_of(counts_.begin(), counts_.end(), [](std::int64_t count) { return count == kLength; })) {
    for (std::size_t t = 0; t < weights.size(); ++t) {
      double squares = 0;
      for (std::size_t i = 0; i < static_cast<std::size_t>(kLength); ++i) {
        const double loss = losses_[t * static_cast<std::size_t>(kLength) + i];
        squares += loss * loss;
      }
      weights[t] = std::sqrt(squares / static_cast<double>(kLength));
    }
  }
  double sum = 0;
  for (const double weight : weights) sum += weight;
  for (double& weight : weights)  // all losses 0: uniform
    weight = (sum > 0 ? weight / sum : 1 / T) * (1 - kUniformShare) + kUniformShare / T;
  return weights;
}

}  // namespace perrin::trainer
