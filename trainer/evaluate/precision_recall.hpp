#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace perrin::trainer {

struct PrecisionRecall {
  double precision = 0;  ///< share of samples that lie within the reference's manifold
  double recall = 0;     ///< share of the reference that lies within the samples' manifold
};

/// A set's manifold is the union of balls around its points, each as wide as the distance to the point's k-th nearest
/// neighbour in the set (closed balls). Distances in double, by blocks of rows: memory grows with N + M, time with
/// (N + M)^2 D.
/// Source: Kynkaanniemi et al. 2019, "Improved precision and recall metric for assessing generative models", eq. 1-2.
/// @param samples, reference  [N, D] and [M, D], more than k rows each
/// @throws std::invalid_argument otherwise
PrecisionRecall precision_recall(const at::Tensor& samples, const at::Tensor& reference, std::int64_t neighbours = 3);

}  // namespace perrin::trainer
