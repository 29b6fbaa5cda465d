#pragma once

#include <chrono>

namespace perrin::trainer {

/// Deadline where ranks wait for work of others that is no collective: a checkpoint being read or written, the rest of
/// a grid of samples.
inline constexpr std::chrono::hours kLongWork{2};

}  // namespace perrin::trainer
