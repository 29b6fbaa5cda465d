#pragma once

#include <cstdint>

namespace perrin::trainer {

/// The steps of a timeline, from 1, both included.
struct TraceSteps {
  std::int64_t first = 1;
  std::int64_t last = 1;
};

}  // namespace perrin::trainer
