#include "trainer/checkpoint/state_parts.hpp"

namespace perrin::trainer {

std::vector<StatePart> state_parts(const ParameterLayout& layout, std::size_t parts) {
  const auto& ranges = layout.ranges();
  std::vector<StatePart> found;
  std::size_t range = 0;
  for (std::size_t p = 0; p < parts; ++p) {
    const std::int64_t target = layout.size() * static_cast<std::int64_t>(p + 1) / static_cast<std::int64_t>(parts);
    StatePart part{.first_range = range, .last_range = range};
    part.begin = part.end = range < ranges.size() ? ranges[range].offset : layout.size();
    // A parameter goes where its middle lies.
    while (range < ranges.size() && (p + 1 == parts || ranges[range].offset + ranges[range].numel / 2 < target)) {
      part.end = ranges[range].offset + ranges[range].numel;
      part.last_range = ++range;
    }
    found.push_back(part);
  }
  return found;
}

}  // namespace perrin::trainer
