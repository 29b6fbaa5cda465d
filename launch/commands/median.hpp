#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace perrin::launch {

/// The upper median. @param values  not empty
inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace perrin::launch
