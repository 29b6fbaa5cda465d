#include "trainer/evaluate/keyed_subset.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "trainer/random/keyed_noise.hpp"

namespace perrin::trainer {

at::Tensor keyed_subset(SubsetOf purpose, std::uint32_t number, std::int64_t n, std::int64_t size) {
  if (size < 0 || size > n) throw std::invalid_argument("a subset is no larger than what it is taken from");
  const Stream stream{.purpose = Purpose::subset, .call_site = static_cast<std::uint32_t>(purpose), .step = number};
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = 0; i < size; ++i) {
    const auto left = static_cast<double>(n - i);
    const auto step = static_cast<std::int64_t>(keyed_uniform(stream, static_cast<std::uint64_t>(i)) * left);
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(i + std::min(step, n - i - 1))]);
  }
  order.resize(static_cast<std::size_t>(size));
  return at::tensor(order, at::kLong);
}

}  // namespace perrin::trainer
