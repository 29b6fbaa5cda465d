#pragma once

#include <algorithm>
#include <cstddef>

namespace perrin::comm {

/// Range [begin, end) of elements or bytes.
struct Range {
  std::size_t begin;
  std::size_t end;
  std::size_t length() const { return end - begin; }
};

/// Part r of `parts` nearly equal ones. Quotient and remainder: begin * r would overflow for huge buffers.
inline Range part_of(Range whole, int r, int parts) {
  const std::size_t quotient = whole.length() / static_cast<std::size_t>(parts);
  const std::size_t remainder = whole.length() % static_cast<std::size_t>(parts);
  const auto edge = [&](int k) {
    return whole.begin + static_cast<std::size_t>(k) * quotient + std::min(static_cast<std::size_t>(k), remainder);
  };
  return {edge(r), edge(r + 1)};
}

}  // namespace perrin::comm
