#pragma once

#include <cstdint>

namespace perrin::trainer {

/// The 16 bits of a bfloat16 in memory; arithmetic is in float32.
enum class BFloat16 : std::uint16_t {};

}  // namespace perrin::trainer
