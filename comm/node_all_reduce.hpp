#pragma once

#include <cstddef>
#include <memory>

#include "comm/schedule.hpp"

namespace perrin::comm {

/// All-reduce through group.node, which must not be null: the same tree, and so the same bits, as over messages.
std::unique_ptr<Schedule> node_all_reduce_schedule(const Group& group, std::byte* data, std::size_t count,
                                                   DataType type, ReduceOp op);

}  // namespace perrin::comm
