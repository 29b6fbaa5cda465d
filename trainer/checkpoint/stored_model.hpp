#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "trainer/checkpoint/manifest.hpp"
#include "trainer/checkpoint/weights_choice.hpp"

namespace perrin::trainer {

/// The weights of a checkpoint, enough to sample from them.
struct StoredModel {
  CheckpointManifest manifest;
  std::string weights_name;                   ///< as name_of() says
  double profile_residual = 0;                ///< PostHocEma::residual(); 0 for weights that are stored
  std::map<std::string, at::Tensor> weights;  ///< by parameter name, fp32, CPU
};

/// The checkpoint that a user means: a checkpoint folder itself, with or without its incarnation, or a run folder's
/// newest one that has a manifest.
/// @throws CheckpointError saying what was looked for
std::filesystem::path resolve_checkpoint(const std::filesystem::path& run_or_checkpoint);

/// Refuses, by looking at manifests alone, weights that load_model could not find or reconstruct.
/// @throws CheckpointError listing what there is
void require_weights(const std::filesystem::path& checkpoint, const CheckpointManifest& manifest,
                     const WeightsChoice& choice);

/// Reads and verifies weights, or reconstructs them (post_hoc.hpp).
/// @throws CheckpointError
StoredModel load_model(const std::filesystem::path& run_or_checkpoint, const WeightsChoice& choice);

/// Of names and values, whatever files they are in and however they lie in memory.
std::string sha256_of(const std::map<std::string, at::Tensor>& tensors);

/// What a checkpoint holds: path, step, position, updates, parameters, averages, the number of its run's snapshots, and
/// the SHA-256 of each buffer's names and values. Verifies it first.
nlohmann::ordered_json inspect_checkpoint(const std::filesystem::path& run_or_checkpoint);

}  // namespace perrin::trainer
