#include "trainer/checkpoint/stored_model.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::trainer {
namespace fs = std::filesystem;

fs::path resolve_checkpoint(const fs::path& run_or_checkpoint) {
  if (fs::exists(run_or_checkpoint / CheckpointManifest::kFileName)) return run_or_checkpoint;
  for (const fs::path& folder : list_checkpoints(RunPaths(run_or_checkpoint).checkpoints()))
    if (fs::exists(folder / CheckpointManifest::kFileName)) return folder;
  throw CheckpointError(
      run_or_checkpoint,
      fs::exists(run_or_checkpoint)
          ? "is neither a checkpoint (a folder with manifest.json) nor a run folder that has one in checkpoints/"
          : "does not exist; give a run folder or one of its checkpoints");
}

StoredModel load_model(const fs::path& run_or_checkpoint, WeightsChoice choice) {
  const fs::path folder = resolve_checkpoint(run_or_checkpoint);
  StoredModel model{.manifest = verify_checkpoint(folder), .weights_name = "raw", .weights = {}};
  std::string file = "weights.safetensors";
  if (choice == WeightsChoice::ema) {
    file = "ema-0.safetensors";
    model.weights_name = fmt::format("EMA {}", model.manifest.origin.ema_decays.front());
  }
  model.weights = read_checkpoint_tensors(folder, file);
  return model;
}

nlohmann::ordered_json inspect_checkpoint(const fs::path& run_or_checkpoint) {
  const fs::path folder = resolve_checkpoint(run_or_checkpoint);
  const CheckpointManifest manifest = verify_checkpoint(folder);
  std::int64_t parameters = 0;
  for (const auto& [name, tensor] : read_checkpoint_tensors(folder, "weights.safetensors"))
    parameters += tensor.numel();

  nlohmann::ordered_json sha256 = nlohmann::ordered_json::object();
  std::uint64_t bytes = 0;
  for (const auto& [name, file] : manifest.files) {
    sha256[fs::path(name).stem().string()] = file.sha256;
    bytes += file.bytes;
  }
  const auto& shape = manifest.origin.image_shape;
  return {{"kind", "checkpoint"},
          {"path", folder.string()},
          {"step", manifest.progress.step},
          {"position", manifest.progress.position},
          {"updates", manifest.progress.updates},
          {"parameters", parameters},
          {"image_shape", {shape.channels, shape.height, shape.width}},
          {"ema_decays", manifest.origin.ema_decays},
          {"dataset_fingerprint", manifest.origin.dataset_fingerprint},
          {"bytes", bytes},
          {"sha256", sha256}};
}

}  // namespace perrin::trainer
