#include "trainer/evaluate/precision_recall.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <vector>

namespace perrin::trainer {
namespace {

constexpr std::int64_t kBlockRows = 1024;

/// Squared distances, by the scalar product. The rounding of the difference is 1e-16 of the vectors' squares: centred
/// features keep it far below any neighbour's distance.
at::Tensor squared_distances(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor squares_a = (a * a).sum(1, /*keepdim=*/true), squares_b = (b * b).sum(1);
  return (squares_a + squares_b).addmm_(a, b.t(), 1, -2).clamp_min_(0);
}

at::Tensor by_blocks(const at::Tensor& rows, const std::function<at::Tensor(const at::Tensor& block)>& of_block) {
  std::vector<at::Tensor> results;
  for (const at::Tensor& block : rows.split(kBlockRows)) results.push_back(of_block(block));
  return at::cat(results);
}

/// Squared radius of each point's ball: [N].
at::Tensor squared_radii(const at::Tensor& points, std::int64_t neighbours) {
  // The point itself is the first of its neighbours.
  return by_blocks(points, [&](const at::Tensor& block) {
    return std::get<0>(squared_distances(block, points).kthvalue(neighbours + 1, 1));
  });
}

double share_within(const at::Tensor& points, const at::Tensor& centres, const at::Tensor& radii) {
  const at::Tensor within =
      by_blocks(points, [&](const at::Tensor& block) { return (squared_distances(block, centres) <= radii).any(1); });
  return within.to(at::kDouble).mean().item<double>();
}

}  // namespace

PrecisionRecall precision_recall(const at::Tensor& samples, const at::Tensor& reference, std::int64_t neighbours) {
  if (samples.dim() != 2 || reference.dim() != 2 || samples.size(1) != reference.size(1) ||
      std::min(samples.size(0), reference.size(0)) <= neighbours)
    throw std::invalid_argument("precision and recall need two sets [N, D], each with more points than neighbours");
  const at::Tensor centre = reference.to(at::kDouble).mean(0);
  const at::Tensor a = samples.to(at::kDouble) - centre, b = reference.to(at::kDouble) - centre;
  return {share_within(a, b, squared_radii(b, neighbours)), share_within(b, a, squared_radii(a, neighbours))};
}

}  // namespace perrin::trainer
