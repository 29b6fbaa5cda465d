#pragma once

#include <cstdint>
#include <vector>

#include "trainer/optimize/parameter_layout.hpp"

namespace perrin::trainer {

/// A run of whole parameters, and the elements of a flat buffer that they take.
struct StatePart {
  std::size_t first_range = 0, last_range = 0;  ///< of ParameterLayout::ranges(), the last one excluded
  std::int64_t begin = 0, end = 0;              ///< elements

  std::int64_t size() const { return end - begin; }
};

/// Cuts the parameters into as many parts of about equal size, one for each rank that writes. Some may be empty.
std::vector<StatePart> state_parts(const ParameterLayout& layout, std::size_t parts);

}  // namespace perrin::trainer
