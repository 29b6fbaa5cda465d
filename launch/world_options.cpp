#include "launch/world_options.hpp"

#include <algorithm>
#include <chrono>

namespace perrin::launch {

comm::WorldOptions world_options(const trainer::DistributedConfig& config, bool require_all_slurm_tasks) {
  const auto deadline =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::duration<double>(config.timeout_seconds));
  comm::WorldOptions options;
  options.communicator.deadline = std::max(deadline, std::chrono::milliseconds(1));
  options.check_collectives = config.check_collectives;
  options.require_all_slurm_tasks = require_all_slurm_tasks;
  options.start_deadline = std::max(options.start_deadline, options.communicator.deadline);
  return options;
}

}  // namespace perrin::launch
