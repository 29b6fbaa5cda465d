#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace perrin::trainer {

struct InceptionScore {
  double mean = 0;
  double deviation = 0;  ///< over the splits, divided by their number, as published
  std::int64_t splits = 0;
};

/// exp of the mean KL divergence of each image's classes from those of its split, over consecutive splits of the images
/// in their order. In double.
/// Source: Salimans et al. 2016, section 4.
/// @param probabilities  [N, K], rows that sum to 1
/// @throws std::invalid_argument for fewer images than splits, or another shape
InceptionScore inception_score(const at::Tensor& probabilities, std::int64_t splits = 10);

}  // namespace perrin::trainer
