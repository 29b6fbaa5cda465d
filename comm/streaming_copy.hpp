#pragma once

#include <cstddef>

namespace perrin::comm {

/// memcpy whose destination is not kept in the caches: for data that another core reads next. A core that reads a cache
/// line which another has written waits for that core's cache, and between two groups of cores that is slower than
/// memory. What was copied is visible to others after their acquire of what this thread releases later.
void streaming_copy(std::byte* destination, const std::byte* source, std::size_t bytes) noexcept;

}  // namespace perrin::comm
