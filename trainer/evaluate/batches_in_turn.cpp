#include "trainer/evaluate/batches_in_turn.hpp"

#include <algorithm>

#include "trainer/deadlines.hpp"

namespace perrin::trainer {

bool batches_in_turn(comm::Communicator& control, std::int64_t begin, std::int64_t end, std::size_t record_bytes,
                     const std::function<void(std::int64_t batch, std::span<std::uint8_t> record)>& make,
                     const std::function<void(std::int64_t batch, std::span<const std::uint8_t> record)>& take,
                     const Interrupt& interrupt) {
  const std::int64_t ranks = control.size();
  std::vector<std::uint8_t> mine(record_bytes), all(record_bytes * static_cast<std::size_t>(ranks));
  for (std::int64_t first = begin; first < end; first += ranks) {
    if (interrupt && interrupt()) return false;
    const std::int64_t own = first + control.rank();
    if (own < end) make(own, mine);
    control.all_gather(std::span<const std::uint8_t>(mine), std::span(all)).wait(kLongWork);
    if (control.rank() != 0) continue;
    for (std::int64_t batch = first; batch < std::min(first + ranks, end); ++batch)
      take(batch, std::span(all).subspan(static_cast<std::size_t>(batch - first) * record_bytes, record_bytes));
  }
  return true;
}

}  // namespace perrin::trainer
