#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace perrin::trainer {

/// Squared maximum mean discrepancy under the cubic kernel k(x, y) = (x . y / D + 1)^3, the unbiased estimate: it may
/// be below 0. In double. Source: Gretton et al. 2012, eq. 3; Binkowski et al. 2018, section 4.
/// @param a, b  [N, D], the same N of at least two
/// @throws std::invalid_argument otherwise
double kernel_mmd2(const at::Tensor& a, const at::Tensor& b);

struct KernelDistance {
  double mean = 0;
  double deviation = 0;  ///< over the subsets, divided by their number, as published
  std::int64_t subsets = 0;
  std::int64_t subset_size = 0;
};

/// Mean of kernel_mmd2 over random subsets, keyed_subset(kid_samples, i) of the one and keyed_subset(kid_reference, i)
/// of the other; of Inception features, the KID. It has no bias in the number of samples.
/// @param samples, reference  [N, D] and [M, D]; subsets are as large as the smaller one allows
/// @throws std::invalid_argument for fewer than two rows, or dimensions that differ
KernelDistance kernel_distance(const at::Tensor& samples, const at::Tensor& reference, std::int64_t subsets = 100,
                               std::int64_t subset_size = 1000);

}  // namespace perrin::trainer
