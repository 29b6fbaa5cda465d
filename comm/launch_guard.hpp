#pragma once

#include <functional>
#include <optional>
#include <string>

namespace perrin::comm {

/// Value of an environment variable, nullopt where it is not set.
using Environment = std::function<std::optional<std::string>(const char* name)>;

/// The environment of this process.
std::optional<std::string> environment_variable(const char* name);

/// True if an MPI launcher has started this process.
bool started_by_launcher(const Environment& environment);

/// Refuses what starts N worlds of one rank in place of one of N: the launcher and the MPI library of the program not
/// knowing each other (mpirun of another MPI, srun without --mpi=pmix).
/// @throws CommError with the fix, if the launcher or the Slurm step has more ranks than the world, or, with
/// require_all_slurm_tasks, if
///   the Slurm job has and the world has one rank
void refuse_silent_singletons(int world_size, bool require_all_slurm_tasks, const Environment& environment);

}  // namespace perrin::comm
