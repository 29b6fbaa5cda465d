#pragma once

#include <cstddef>
#include <deque>

namespace perrin::trainer {

/// Finds a step whose loss stands far above those before it, as a training that explodes shows first.
class LossSpikes {
 public:
  static constexpr std::size_t kWindow = 128;

  /// @param limit  standard deviations above the mean of the window; 0: nothing is a spike
  explicit LossSpikes(double limit) : limit_(limit) {}

  /// Takes in the loss of one step. @return whether it is a spike; before the window is full none is
  bool observe(double loss);

 private:
  double limit_;
  std::deque<double> window_;
};

}  // namespace perrin::trainer
