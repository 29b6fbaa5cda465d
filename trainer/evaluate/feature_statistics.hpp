#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace perrin::trainer {

/// Mean and covariance of feature vectors that arrive in pieces. Features are centred piece by piece before they are
/// multiplied, and pieces are merged as Chan et al. do, so that a mean far from zero costs no digits. Rows are grouped
/// in blocks of kBlockRows counted from the first: how they were cut into pieces does not show in the bits.
/// Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
class FeatureStatistics {
 public:
  static constexpr std::int64_t kBlockRows = 512;

  /// @throws std::invalid_argument for a dimension below 1
  explicit FeatureStatistics(std::int64_t dimension);

  /// @param features  [N, D], any floating-point type and device; the order of rows is part of the result's bits
  /// @throws std::invalid_argument for another shape
  void add(const at::Tensor& features);

  std::int64_t count() const { return count_ + pending_rows_; }
  std::int64_t dimension() const { return dimension_; }
  /// [D] float64. @throws std::invalid_argument without rows
  at::Tensor mean() const;
  /// Unbiased (divided by n - 1), [D, D] float64, symmetric to the bit. @throws std::invalid_argument below two rows
  at::Tensor covariance() const;

 private:
  void merge(const at::Tensor& block);
  FeatureStatistics finished() const;

  std::int64_t dimension_;
  std::int64_t count_ = 0;         // rows that are merged
  at::Tensor mean_, scatter_;      // of those: [D], and the sum of centred outer products [D, D]
  std::int64_t pending_rows_ = 0;  // of the block that fills
  at::Tensor pending_;             // [kBlockRows, D]
};

/// Mean and covariance as other programs store them.
struct GaussianFit {
  at::Tensor mu;     ///< [D] float64
  at::Tensor sigma;  ///< [D, D] float64
};

GaussianFit fit_of(const FeatureStatistics& statistics);
/// Of all rows of [N, D].
GaussianFit fit_of(const at::Tensor& features);

}  // namespace perrin::trainer
