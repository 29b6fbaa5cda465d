#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "comm/communicator.hpp"
#include "trainer/interrupt.hpp"

namespace perrin::trainer {

/// Batches [begin, end) of a list that all ranks know, made by the ranks in turn and handed to rank 0 in their order:
/// how many ranks there are shows in nothing but the time. Every rank takes part in every collective. Collective.
/// @param record_bytes  of one batch
/// @param make  fills the record of one batch, on the rank whose turn it is
/// @param take  called on rank 0, in order; may be empty on others
/// @param interrupt  asked before every round; empty: nobody interrupts
/// @return false if interrupted: rank 0 has taken every batch before
bool batches_in_turn(comm::Communicator& control, std::int64_t begin, std::int64_t end, std::size_t record_bytes,
                     const std::function<void(std::int64_t batch, std::span<std::uint8_t> record)>& make,
                     const std::function<void(std::int64_t batch, std::span<const std::uint8_t> record)>& take,
                     const Interrupt& interrupt = {});

}  // namespace perrin::trainer
