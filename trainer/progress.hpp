#pragma once

#include <cstdint>

namespace perrin::trainer {

/// Where a run stands. Several counters, since a non-finite step consumes data without updating the
/// weights, and a return to an earlier checkpoint leaves data out.
struct Progress {
  std::int64_t step = 0;       ///< global batches consumed
  std::uint64_t position = 0;  ///< of the next training sample in the endless stream
  std::int64_t updates = 0;    ///< optimizer updates applied; Adam's t and the EMA warm-up count these
  std::int64_t rollbacks = 0;  ///< returns to an earlier checkpoint; each leaves out a stretch of the stream

  bool operator==(const Progress&) const = default;
};

}  // namespace perrin::trainer
