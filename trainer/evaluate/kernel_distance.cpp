#include "trainer/evaluate/kernel_distance.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "trainer/evaluate/keyed_subset.hpp"

namespace perrin::trainer {
namespace {

at::Tensor cubic_kernel(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor base = a.mm(b.t()).div_(static_cast<double>(a.size(1))).add_(1.0);
  return base * base * base;
}

/// Sum of all elements but the diagonal's.
double off_diagonal(const at::Tensor& kernel) { return (kernel.sum() - kernel.trace()).item<double>(); }

}  // namespace

double kernel_mmd2(const at::Tensor& a, const at::Tensor& b) {
  if (a.dim() != 2 || a.sizes() != b.sizes() || a.size(0) < 2)
    throw std::invalid_argument("the kernel distance compares two sets [N, D] of one size, N at least 2");
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  const auto n = static_cast<double>(x.size(0));
  return (off_diagonal(cubic_kernel(x, x)) + off_diagonal(cubic_kernel(y, y))) / (n * (n - 1)) -
         2 * cubic_kernel(x, y).sum().item<double>() / (n * n);
}

KernelDistance kernel_distance(const at::Tensor& samples, const at::Tensor& reference, std::int64_t subsets,
                               std::int64_t subset_size) {
  const std::int64_t size = std::min({subset_size, samples.size(0), reference.size(0)});
  std::vector<double> distances;
  for (std::int64_t i = 0; i < subsets; ++i) {
    const auto number = static_cast<std::uint32_t>(i);
    distances.push_back(
        kernel_mmd2(samples.index_select(0, keyed_subset(SubsetOf::kid_samples, number, samples.size(0), size)),
                    reference.index_select(0, keyed_subset(SubsetOf::kid_reference, number, reference.size(0), size))));
  }
  const auto n = static_cast<double>(subsets);
  double sum = 0, squares = 0;
  for (const double distance : distances) sum += distance;
  for (const double distance : distances) squares += (distance - sum / n) * (distance - sum / n);
  return {sum / n, std::sqrt(squares / n), subsets, size};
}

}  // namespace perrin::trainer
