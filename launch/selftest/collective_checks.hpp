#pragma once

#include <c10/core/Device.h>

#include "comm/communicator.hpp"
#include "comm/data_type.hpp"
#include "launch/selftest/checklist.hpp"

namespace perrin::launch {

/// Which collective is checked: those of Communicator, by the same names.
enum class CollectiveName { all_reduce, reduce_scatter, all_gather, all_to_all, broadcast };

/// One collective and element type against what the host computes from all ranks' inputs: every reduction, lengths of
/// 0, 1, odd numbers and 300,001, from a start that is aligned to the element alone, in place where that is allowed.
/// Collective.
/// @param device  where the communicator takes memory
Finding check_collective(comm::Communicator& on, at::Device device, CollectiveName collective, comm::DataType type);

/// A sum of 64 MiB of keyed normals, twice: right to float32's precision, the same bits on every rank, and again the
/// same. Collective over both.
Finding check_large_sum(comm::Communicator& on, at::Device device, comm::Communicator& control);

/// An operation reads what the compute stream wrote before it, and what is computed after it sees its result.
/// Collective.
Finding check_stream_order(comm::Communicator& on, at::Device device);

}  // namespace perrin::launch
