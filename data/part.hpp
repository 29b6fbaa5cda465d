#pragma once

#include <cstdint>

namespace perrin::data {

/// One of several shares of the same work: item i belongs to share i mod count.
struct Part {
  std::uint64_t index = 0;
  std::uint64_t count = 1;

  bool has(std::uint64_t item) const noexcept { return item % count == index; }
};

}  // namespace perrin::data
