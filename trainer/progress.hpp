#pragma once

#include <cstdint>

namespace perrin::trainer {

/// Where a run stands. Three counters, since a non-finite step consumes data without updating the weights.
struct Progress {
  std::int64_t step = 0;       ///< global batches consumed
  std::uint64_t position = 0;  ///< of the next training sample in the endless stream
  std::int64_t updates = 0;    ///< optimizer updates applied; Adam's t and the EMA warm-up count these

  bool operator==(const Progress&) const = default;
};

}  // namespace perrin::trainer
