#include "trainer/evaluate/inception_score.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <stdexcept>
#include <vector>

namespace perrin::trainer {

InceptionScore inception_score(const at::Tensor& probabilities, std::int64_t splits) {
  if (probabilities.dim() != 2 || splits < 1 || probabilities.size(0) < splits)
    throw std::invalid_argument("the inception score needs class probabilities [N, K] and an image for each split");
  const std::int64_t images = probabilities.size(0);
  std::vector<double> scores;
  for (std::int64_t i = 0; i < splits; ++i) {
    const at::Tensor p = probabilities.slice(0, i * images / splits, (i + 1) * images / splits).to(at::kDouble);
    // xlogy: a class without probability counts nothing, where p log p would be NaN.
    const at::Tensor marginal = p.mean(0, /*keepdim=*/true);
    const at::Tensor divergence = (at::xlogy(p, p) - at::xlogy(p, marginal)).sum(1).mean();
    scores.push_back(std::exp(divergence.item<double>()));
  }
  const auto n = static_cast<double>(splits);
  double sum = 0, squares = 0;
  for (const double score : scores) sum += score;
  for (const double score : scores) squares += (score - sum / n) * (score - sum / n);
  return {sum / n, std::sqrt(squares / n), splits};
}

}  // namespace perrin::trainer
