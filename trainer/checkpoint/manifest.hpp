#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "data/image_shape.hpp"
#include "trainer/checkpoint/training_state.hpp"
#include "trainer/progress.hpp"

namespace perrin::trainer {

/// What a checkpoint was made from; a resume compares it.
struct CheckpointOrigin {
  std::string config;               ///< resolved configuration, as text
  std::string dataset_fingerprint;  ///< of the training dataset
  data::ImageShape image_shape;
  std::string sample_order;  ///< algorithm id of the data order
  std::vector<double> ema_decays;
  std::vector<double> power_sigmas = {};
  std::string machine = {};  ///< threads of a rank and instruction set, on which bits depend; empty: not recorded

  /// What the buffers ema-0, ema-1, ... hold: "EMA 0.9999", "power EMA 0.05".
  std::vector<std::string> averages() const;
  /// The name of the buffer that holds the average of power_sigmas[index]: they follow those of ema_decays.
  std::string power_average(std::size_t index) const;

  bool operator==(const CheckpointOrigin&) const = default;
};

/// What a folder with a manifest holds.
enum class Contents {
  checkpoint,  ///< all that a resume needs
  snapshot     ///< the power-function averages alone
};

/// One tensor file of a checkpoint.
struct CheckpointFile {
  std::uint64_t bytes = 0;
  std::string sha256;

  bool operator==(const CheckpointFile&) const = default;
};

/// manifest.json: written last, it makes a folder a checkpoint. Carries its own SHA-256.
struct CheckpointManifest {
  /// What is written. 1 is read too: it knows no power-function averages, and of the loss window its sum and count.
  static constexpr int kFormatVersion = 2;
  static constexpr const char* kFileName = "manifest.json";

  int format_version = kFormatVersion;
  Contents contents = Contents::checkpoint;
  Progress progress;
  LossWindow losses;
  std::uint64_t metrics_bytes = 0;  ///< length of metrics.jsonl at this step
  CheckpointOrigin origin;
  std::string layout_sha256;                    ///< of the parameter names, shapes and places
  std::map<std::string, CheckpointFile> files;  ///< by file name: weights.safetensors, adam_m.safetensors, ...

  bool operator==(const CheckpointManifest&) const = default;
};

std::string to_json(const CheckpointManifest& manifest);

/// Reads and checks <folder>/manifest.json.
/// @throws DamagedCheckpoint if it is missing or altered; CheckpointError if it cannot be read, is of another format or
/// of other contents than expected
CheckpointManifest read_manifest(const std::filesystem::path& folder, Contents expected = Contents::checkpoint);

}  // namespace perrin::trainer
