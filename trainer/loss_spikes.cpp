#include "trainer/loss_spikes.hpp"

#include <cmath>

namespace perrin::trainer {

bool LossSpikes::observe(double loss) {
  if (limit_ == 0) return false;
  bool spike = false;
  if (window_.size() == kWindow) {
    double mean = 0, square = 0;
    for (const double value : window_) mean += value / kWindow;
    for (const double value : window_) square += (value - mean) * (value - mean) / kWindow;
    spike = loss - mean > limit_ * std::sqrt(square);
    window_.pop_front();
  }
  window_.push_back(loss);
  return spike;
}

}  // namespace perrin::trainer
