#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace perrin::trainer {

/// Losses since the last recorded row.
struct LossWindow {
  static constexpr std::size_t kQuartiles = 4;

  double sum = 0;     ///< of the steps' mean losses
  double simple = 0;  ///< of their unweighted L_simple
  double bound = 0;   ///< of their variational bounds in bits/dim, where the loss has one
  std::int64_t count = 0;
  /// Of images, by where their noise level stands in its range (Nichol & Dhariwal 2021's code): losses and weights.
  std::array<double, kQuartiles> quartile_sums{}, quartile_weights{};

  bool operator==(const LossWindow&) const = default;
};

}  // namespace perrin::trainer
