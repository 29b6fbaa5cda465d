#pragma once

#include <string_view>

namespace perrin::launch {

/// The text of slurm/train.sbatch with slurm/ranks.sh in the place of the line that sources it. The build makes it from
/// those files, so that there is one batch script.
extern const std::string_view kTrainScript;

}  // namespace perrin::launch
