#pragma once

#include <cstdint>
#include <functional>

#include "comm/communicator.hpp"
#include "comm/steady_clock.hpp"

namespace perrin::comm {

/// How this rank's clock stands to rank 0's: theirs = own + ahead_ns, within +- error_ns.
struct ClockOffset {
  std::int64_t ahead_ns = 0;
  std::int64_t error_ns = 0;
};

/// Compares the ranks' clocks by a few all-gathers of times. Collective. A message that leaves rank 0 at a (its clock)
/// and is here at b (own clock) proves theirs - own >= a - b, one in the other direction bounds it from above; the
/// offset is the middle between the tightest bounds, and error_ns half of what is between them. It holds for the
/// moment: clocks of different hosts drift, by some 10 us a second.
/// @throws CommError
ClockOffset measure_clock_offset(Communicator& control, const std::function<std::int64_t()>& now = steady_ns);

}  // namespace perrin::comm
