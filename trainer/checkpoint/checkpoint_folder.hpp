#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "trainer/checkpoint/manifest.hpp"
#include "trainer/checkpoint/training_state.hpp"
#include "trainer/optimize/shard_gather.hpp"

/// A checkpoint is a folder step-00001000 with manifest.json and one safetensors file for each buffer of the arena, in
/// logical shapes, so that it does not depend on memory layout or the number of ranks. It is written under a temporary
/// name, flushed to the device, and published by rename: a folder of that name is whole or does not exist.
/// A snapshot is such a folder with the power-function averages alone, and stays for ever: later reconstructions
/// (post_hoc.hpp) need them all.
namespace perrin::trainer {

/// Of a checkpoint, where objective.timesteps is importance: losses [T * 10] fp64 and counts [T] int64 (LossHistory).
inline constexpr const char* kLossHistoryFile = "loss_history.safetensors";

/// The name of a step's checkpoint inside `checkpoints`.
std::filesystem::path checkpoint_path(const std::filesystem::path& checkpoints, std::int64_t step);

/// Writes one checkpoint and publishes it. Collective: buffers whose parts are spread over the ranks are put together
/// one at a time, and rank 0 writes.
/// @param shards        of state.arena
/// @param metrics_bytes length of metrics.jsonl now; of rank 0
/// @throws data::DataError (full disk, no permission); nothing is published then. CheckpointError if that step has one
/// already; comm::CommError
void save_checkpoint(const std::filesystem::path& checkpoints, const TrainingState& state, const ShardGather& shards,
                     const CheckpointOrigin& origin, std::uint64_t metrics_bytes);

/// Writes and publishes the power-function averages, which ema.power_sigmas names. Before the first update there are
/// none, and nothing is written. Collective as save_checkpoint(), and before it at the same step: a resume from there
/// would not come by here again.
/// @throws as save_checkpoint
void save_snapshot(const std::filesystem::path& snapshots, const TrainingState& state, const ShardGather& shards,
                   const CheckpointOrigin& origin);

/// Removes the snapshots that a start made beyond the step from which the run now goes on.
/// @throws CheckpointError, data::DataError if one cannot be removed: it would be taken for a part of this run
void discard_snapshots_after(const std::filesystem::path& snapshots, std::int64_t step);

/// Folders named like checkpoints or snapshots, newest step first. Says nothing about their contents.
/// @throws CheckpointError if the folder exists and cannot be read
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& checkpoints);

/// Removes all but the `keep` newest checkpoints, and what interrupted writes left behind.
void remove_old_checkpoints(const std::filesystem::path& checkpoints, std::int64_t keep);

/// Reads the manifest and compares length and SHA-256 of every file.
/// @throws DamagedCheckpoint naming the file that is not what was written; CheckpointError if one cannot be read
CheckpointManifest verify_checkpoint(const std::filesystem::path& folder, Contents expected = Contents::checkpoint);

/// The tensors of one file of a checkpoint by name (of the parameter), on the CPU.
/// @throws CheckpointError
std::map<std::string, at::Tensor> read_checkpoint_tensors(const std::filesystem::path& folder, const std::string& file);

}  // namespace perrin::trainer
