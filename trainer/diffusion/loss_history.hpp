#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace perrin::trainer {

/// The last ten losses of every timestep, from which timesteps are drawn in proportion to the root mean square: the
/// importance sampling of L_vlb. Source: Nichol & Dhariwal 2021, eq. 18. Part of a checkpoint, and the same on all
/// ranks.
class LossHistory {
 public:
  static constexpr std::int64_t kLength = 10;     ///< losses of each timestep
  static constexpr double kUniformShare = 0.001;  ///< of the probability, so that no timestep is forgotten

  /// @param timesteps  0: keeps nothing
  explicit LossHistory(std::int64_t timesteps = 0);
  /// As stored by losses() and counts(). @throws std::invalid_argument if their sizes do not belong together
  LossHistory(std::vector<double> losses, std::vector<std::int64_t> counts);

  std::int64_t timesteps() const { return static_cast<std::int64_t>(counts_.size()); }
  /// Takes one loss in; the oldest of its timestep leaves. A loss that is not finite is passed over.
  void observe(std::int64_t t, double loss);
  /// P(t): uniform until every timestep has its ten losses. Sums to 1.
  std::vector<double> probabilities() const;

  /// [T * kLength], the oldest loss of each timestep first.
  const std::vector<double>& losses() const { return losses_; }
  /// [T] losses held.
  const std::vector<std::int64_t>& counts() const { return counts_; }

  bool operator==(const LossHistory&) const = default;

 private:
  std::vector<double> losses_;
  std::vector<std::int64_t> counts_;
};

}  // namespace perrin::trainer
