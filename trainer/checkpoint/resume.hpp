#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "comm/communicator.hpp"
#include "trainer/checkpoint/manifest.hpp"
#include "trainer/checkpoint/training_state.hpp"

namespace perrin::trainer {

/// Where a run goes on.
struct ResumePoint {
  std::filesystem::path checkpoint;
  std::uint64_t metrics_bytes = 0;
  std::string machine;  ///< that made it; on rank 0
};

enum class ResumeReason {
  start,      ///< of the program
  divergence  ///< the run's numbers have gone wrong
};

/// Brings every rank's state to the newest checkpoint that is whole and undamaged; a damaged one is named in the log
/// and the one before it is taken, as it is for one from which the run has diverged twice. Rank 0 reads one buffer
/// after the other, the others receive by broadcast and keep what the arena's plan gives them, so only rank 0 needs to
/// see the folder, and the checkpoint may be of any number of ranks, sharded or not. Collective.
/// @return nullopt if there is no checkpoint: the state stays as initialized
/// @throws CheckpointError if the checkpoint is of another dataset, architecture or set of EMAs, or if all are damaged
std::optional<ResumePoint> resume_newest(const std::filesystem::path& checkpoints, const CheckpointOrigin& origin,
                                         TrainingState& state, comm::Communicator& control,
                                         ResumeReason reason = ResumeReason::start);

/// What every rank holds alike, in one short text: the sum of each buffer's 64-bit words (weights, and Adam's moments
/// and EMAs unless they are sharded), which any single change alters and memory speed pays for, and a hash of the loss
/// history.
std::string fingerprint_of_replicas(const TrainingState& state);

}  // namespace perrin::trainer
