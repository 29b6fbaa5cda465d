#pragma once

#include <functional>

namespace perrin::trainer {

/// Asked between the batches of long work, by all ranks together as often as each other: whether to give it up.
/// Collective.
using Interrupt = std::function<bool()>;

}  // namespace perrin::trainer
