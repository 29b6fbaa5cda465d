#pragma once

namespace perrin::data {

/// Which images of a set that comes divided.
enum class Subset { train, test };

}  // namespace perrin::data
