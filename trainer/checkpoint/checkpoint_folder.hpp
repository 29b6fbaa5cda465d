#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "trainer/checkpoint/manifest.hpp"

/// A checkpoint is a folder with manifest.json and safetensors files: of each buffer of the arena one, or one for each
/// rank that wrote, in logical shapes, so that it does not depend on memory layout or the number of ranks. A snapshot
/// is such a folder with the power-function averages alone, and stays for ever: later reconstructions (post_hoc.hpp)
/// need them all. docs/checkpoints.md specifies both.
namespace perrin::trainer {

/// Of a checkpoint, where objective.timesteps is importance: losses [T * 10] fp64 and counts [T] int64 (LossHistory).
inline constexpr const char* kLossHistoryFile = "loss_history.safetensors";

/// Beside the checkpoints: the name of the newest one, for people and scripts. perrin itself looks at the folders.
inline constexpr const char* kLatestFile = "latest";

/// Removes the snapshots that a start made beyond the step from which the run now goes on.
/// @throws CheckpointError, data::DataError if one cannot be removed: it would be taken for a part of this run
void discard_snapshots_after(const std::filesystem::path& snapshots, std::int64_t step);

/// Reads the manifest and compares length and SHA-256 of every file.
/// @throws DamagedCheckpoint naming the file that is not what was written; CheckpointError if one cannot be read
CheckpointManifest verify_checkpoint(const std::filesystem::path& folder, Contents expected = Contents::checkpoint);

/// The tensors of one file of a checkpoint by name, on the CPU. @throws CheckpointError
std::map<std::string, at::Tensor> read_checkpoint_tensors(const std::filesystem::path& folder, const std::string& file);

/// The tensors of a buffer by the name of the parameter, from all its files. @throws CheckpointError
std::map<std::string, at::Tensor> read_checkpoint_buffer(const std::filesystem::path& folder,
                                                         const CheckpointManifest& manifest, const std::string& buffer);

}  // namespace perrin::trainer
