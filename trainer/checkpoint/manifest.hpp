#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/image_shape.hpp"
#include "trainer/interchange/safetensors_format.hpp"
#include "trainer/loss_window.hpp"
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
  std::string program = {};  ///< versions of perrin and of the libraries it ran with; empty: not recorded

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

/// manifest.json: written last, it makes a folder a checkpoint. Carries its own SHA-256.
struct CheckpointManifest {
  /// What is written. Older ones are read too: 1 knows no power-function averages, and of the loss window its sum and
  /// count; 2 no incarnation, parent, rollbacks and held-out loss, and has one file for each buffer.
  static constexpr int kFormatVersion = 3;
  static constexpr const char* kFileName = "manifest.json";

  int format_version = kFormatVersion;
  Contents contents = Contents::checkpoint;
  std::int64_t incarnation = 0;  ///< that wrote it
  std::string parent;            ///< name of the checkpoint from which that incarnation went on; empty: none
  Progress progress;
  LossWindow losses;
  std::uint64_t metrics_bytes = 0;     ///< length of metrics.jsonl at this step
  std::optional<double> heldout_loss;  ///< where it was measured at this step
  CheckpointOrigin origin;
  std::string layout_sha256;                 ///< of the parameter names, shapes and places
  std::map<std::string, WrittenFile> files;  ///< by name: weights.safetensors, or its parts (part_file.hpp), ...

  /// The files of a buffer, in order. @throws std::out_of_range if there is none
  std::vector<std::string> files_of(const std::string& buffer) const;

  bool operator==(const CheckpointManifest&) const = default;
};

std::string to_json(const CheckpointManifest& manifest);

/// Reads and checks <folder>/manifest.json.
/// @throws DamagedCheckpoint if it is missing or altered; CheckpointError if it cannot be read, is of another format or
/// of other contents than expected, or names files outside of the folder
CheckpointManifest read_manifest(const std::filesystem::path& folder, Contents expected = Contents::checkpoint);

}  // namespace perrin::trainer
