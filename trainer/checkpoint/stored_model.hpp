#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "trainer/checkpoint/manifest.hpp"

namespace perrin::trainer {

enum class WeightsChoice { ema, raw };

/// The weights of a checkpoint, enough to sample from them.
struct StoredModel {
  CheckpointManifest manifest;
  std::string weights_name;                   ///< "raw", or "EMA 0.9999"
  std::map<std::string, at::Tensor> weights;  ///< by parameter name, fp32, CPU
};

/// The checkpoint that a user means: a checkpoint folder itself, or a run folder's newest one that has a manifest.
/// @throws CheckpointError saying what was looked for
std::filesystem::path resolve_checkpoint(const std::filesystem::path& run_or_checkpoint);

/// Reads and verifies weights. @param choice ema takes the first of ema.decays
/// @throws CheckpointError
StoredModel load_model(const std::filesystem::path& run_or_checkpoint, WeightsChoice choice);

/// What a checkpoint holds: path, step, position, updates, parameters, and the SHA-256 of each file. Verifies it first.
nlohmann::ordered_json inspect_checkpoint(const std::filesystem::path& run_or_checkpoint);

}  // namespace perrin::trainer
