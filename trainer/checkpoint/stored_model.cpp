#include "trainer/checkpoint/stored_model.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "data/sha256.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/part_file.hpp"
#include "trainer/checkpoint/post_hoc.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

/// The name of what is chosen, which the checkpoint must hold or be able to make.
std::string name_in(const fs::path& checkpoint, const CheckpointManifest& manifest, const WeightsChoice& choice) {
  try {
    return name_of(choice, manifest.origin);
  } catch (const std::invalid_argument& error) {
    throw CheckpointError(checkpoint, error.what());
  }
}

}  // namespace

std::string sha256_of(const std::map<std::string, at::Tensor>& tensors) {
  data::Sha256 hash;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor values = tensor.cpu().contiguous();
    hash.update(name).update({static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()});
  }
  return hash.hex();
}

fs::path resolve_checkpoint(const fs::path& run_or_checkpoint) {
  // "step-00001000", whatever the incarnation: of several the newest.
  const auto asked = parse_checkpoint_name(run_or_checkpoint);
  if (asked && asked->incarnation == 0 && !fs::exists(run_or_checkpoint))
    for (const fs::path& folder : list_checkpoints(run_or_checkpoint.parent_path()))
      if (parse_checkpoint_name(folder)->step == asked->step) return folder;
  if (fs::exists(run_or_checkpoint / CheckpointManifest::kFileName)) return run_or_checkpoint;
  for (const fs::path& folder : list_checkpoints(RunPaths(run_or_checkpoint).checkpoints()))
    if (fs::exists(folder / CheckpointManifest::kFileName)) return folder;
  throw CheckpointError(
      run_or_checkpoint,
      fs::exists(run_or_checkpoint)
          ? "is neither a checkpoint (a folder with manifest.json) nor a run folder that has one in checkpoints/"
          : "does not exist; give a run folder or one of its checkpoints");
}

void require_weights(const fs::path& checkpoint, const CheckpointManifest& manifest, const WeightsChoice& choice) {
  name_in(checkpoint, manifest, choice);
  if (const auto* post_hoc = std::get_if<PostHocAverage>(&choice))
    PostHocEma(checkpoint, manifest, post_hoc->sigma_rel);
}

StoredModel load_model(const fs::path& run_or_checkpoint, const WeightsChoice& choice) {
  const fs::path folder = resolve_checkpoint(run_or_checkpoint);
  StoredModel model{.manifest = verify_checkpoint(folder), .weights_name = {}, .weights = {}};
  model.weights_name = name_in(folder, model.manifest, choice);
  if (const auto* post_hoc = std::get_if<PostHocAverage>(&choice)) {
    const PostHocEma reconstructed(folder, model.manifest, post_hoc->sigma_rel);
    model.profile_residual = reconstructed.residual();
    model.weights_name += fmt::format(" (residual {:.2g})", model.profile_residual);
    model.weights = reconstructed.sum();
  } else {
    const auto* average = std::get_if<StoredAverage>(&choice);
    const std::string buffer = average != nullptr ? fmt::format("ema-{}", average->index) : "weights";
    model.weights = read_checkpoint_buffer(folder, model.manifest, buffer);
  }
  return model;
}

nlohmann::ordered_json inspect_checkpoint(const fs::path& run_or_checkpoint) {
  const fs::path folder = resolve_checkpoint(run_or_checkpoint);
  const CheckpointManifest manifest = verify_checkpoint(folder);
  std::int64_t parameters = 0;
  nlohmann::ordered_json sha256 = nlohmann::ordered_json::object();
  std::uint64_t bytes = 0;
  for (const auto& [name, file] : manifest.files) {
    bytes += file.bytes;
    const std::string buffer = buffer_of(name);
    if (sha256.contains(buffer)) continue;
    const auto tensors = read_checkpoint_buffer(folder, manifest, buffer);
    sha256[buffer] = sha256_of(tensors);
    if (buffer != "weights") continue;
    for (const auto& [parameter, tensor] : tensors) parameters += tensor.numel();
  }
  nlohmann::ordered_json averages = nlohmann::ordered_json::object();
  for (const std::string& name : manifest.origin.averages()) averages[fmt::format("ema-{}", averages.size())] = name;
  const auto& shape = manifest.origin.image_shape;
  return {{"kind", "checkpoint"},
          {"path", folder.string()},
          {"step", manifest.progress.step},
          {"position", manifest.progress.position},
          {"updates", manifest.progress.updates},
          {"rollbacks", manifest.progress.rollbacks},
          {"incarnation", manifest.incarnation},
          {"parent", manifest.parent},
          {"parameters", parameters},
          {"image_shape", {shape.channels, shape.height, shape.width}},
          {"averages", averages},
          {"snapshots", snapshots_beside(folder).size()},
          {"dataset_fingerprint", manifest.origin.dataset_fingerprint},
          {"program", manifest.origin.program},
          {"bytes", bytes},
          {"sha256", sha256}};
}

}  // namespace perrin::trainer
