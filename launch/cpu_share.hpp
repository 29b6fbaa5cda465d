#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "comm/world.hpp"

namespace perrin::launch {

/// The CPUs that a process may use, one bit each; 1024 of them, as the kernel's own fixed-size set.
using CpuSet = std::array<std::int64_t, 16>;

/// Of this process (sched_getaffinity): a launcher or a scheduler may have bound it.
CpuSet usable_cpus();

/// The threads a rank may run without taking another's CPUs: its CPUs, divided by the ranks of its node that share one
/// with it; at least 1.
/// @param node  the sets of all ranks of the node, `mine` among them
int share_of_cpus(const CpuSet& mine, std::span<const CpuSet> node);

/// The same for this rank. Collective.
int share_of_cpus(comm::World& world);

}  // namespace perrin::launch
