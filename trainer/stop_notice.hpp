#pragma once

#include <functional>

namespace perrin::trainer {

/// What the outside asks of this rank.
enum class StopNotice {
  none,
  orderly,  ///< finish the step, make a checkpoint, leave: SIGUSR1
  soon      ///< the same, but the process is killed shortly: SIGTERM
};

/// Asked once a step, on every rank.
using StopNoticeSource = std::function<StopNotice()>;

}  // namespace perrin::trainer
