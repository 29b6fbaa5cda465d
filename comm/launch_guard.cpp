#include "comm/launch_guard.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>

#include "comm/comm_error.hpp"

namespace perrin::comm {
namespace {

int number_in(const Environment& environment, const char* name) {
  const std::optional<std::string> text = environment(name);
  int number = 0;
  if (text) std::from_chars(text->data(), text->data() + text->size(), number);
  return number;
}

CommError refusal(const std::string& reason) { return CommError(OperationId{.operation = "start"}, reason); }

}  // namespace

std::optional<std::string> environment_variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) return std::nullopt;
  return value;
}

bool started_by_launcher(const Environment& environment) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (environment(name)) return true;
  }
  return false;
}

void refuse_silent_singletons(int world_size, bool require_all_slurm_tasks, const Environment& environment) {
  const int launched = number_in(environment, "OMPI_COMM_WORLD_SIZE");
  if (launched > 0 && launched != world_size) {
    throw refusal(fmt::format(
        "mpirun started {} ranks (OMPI_COMM_WORLD_SIZE), but MPI gives this process a world of {}: mpirun and the "
        "program use different MPI libraries. Use the mpirun of the MPI that perrin was built with.",
        launched, world_size));
  }
  if (world_size != 1) return;
  const int step_tasks = number_in(environment, "SLURM_STEP_NUM_TASKS");
  if (step_tasks > 1) {
    throw refusal(
        fmt::format("srun started {} tasks (SLURM_STEP_NUM_TASKS), but each would run alone as a world of one rank. "
                    "Start with `srun --mpi=pmix`, or with mpirun inside the allocation.",
                    step_tasks));
  }
  const int job_tasks = number_in(environment, "SLURM_NTASKS");
  if (require_all_slurm_tasks && job_tasks > 1) {
    throw refusal(fmt::format(
        "this Slurm job has {} tasks (SLURM_NTASKS), but the world has one rank. Start with `mpirun perrin ...` "
        "or `srun --mpi=pmix perrin ...`; for a run on one rank ask Slurm for --ntasks=1.",
        job_tasks));
  }
}

}  // namespace perrin::comm
