#pragma once

#include <cstdint>
#include <string>
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

/// "weights.safetensors", or of several parts, as the field names them, "weights-00001-of-00002.safetensors".
std::string part_file(const std::string& buffer, std::size_t part, std::size_t parts);
/// The buffer that such a file holds, or a part of it.
std::string buffer_of(const std::string& file);

}  // namespace perrin::trainer
