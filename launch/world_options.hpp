#pragma once

#include "comm/world.hpp"
#include "trainer/config.hpp"

namespace perrin::launch {

/// How the ranks of a command come together, with the deadlines of the configuration.
/// @param require_all_slurm_tasks  refuse one rank where the Slurm job has more: for training
comm::WorldOptions world_options(const trainer::DistributedConfig& config, bool require_all_slurm_tasks);

}  // namespace perrin::launch
