#pragma once

#include <chrono>
#include <cstdint>

namespace perrin::comm {

/// std::chrono::steady_clock in ns: the clock of every recorded moment. On Linux one for all processes of a host.
inline std::int64_t steady_ns() noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace perrin::comm
