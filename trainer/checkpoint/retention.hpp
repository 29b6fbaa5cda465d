#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "trainer/config.hpp"

namespace perrin::trainer {

/// What the choice of checkpoints to keep looks at.
struct KeptCheckpoint {
  std::filesystem::path path;
  std::int64_t step = 0;
  std::optional<double> heldout_loss;
};

/// Those that checkpoint.keep, keep_every and keep_best do not ask for. Those of a branch that the run has left, by a
/// return to an earlier step, do not count among the newest.
/// @param newest_first all of a run
std::vector<std::filesystem::path> superfluous(const std::vector<KeptCheckpoint>& newest_first,
                                               const CheckpointConfig& config);

/// Removes the superfluous checkpoints of a run, and what interrupted writes left. A removal that is interrupted leaves
/// nothing that looks like a checkpoint. @throws CheckpointError if the folder cannot be read
void remove_superfluous(const std::filesystem::path& checkpoints, const CheckpointConfig& config);

}  // namespace perrin::trainer
