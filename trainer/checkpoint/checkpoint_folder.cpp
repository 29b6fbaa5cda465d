#include "trainer/checkpoint/checkpoint_folder.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <system_error>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/interchange/safetensors.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kUnfinishedSuffix = ".tmp";

/// The step in a checkpoint's folder name; nullopt for any other name.
std::optional<std::int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
  if (error != std::errc{} || end != name.data() + name.size()) return std::nullopt;
  return step;
}

/// One buffer of the arena in logical shapes, so that no memory layout shows.
std::map<std::string, at::Tensor> logical_tensors(const ParameterLayout& layout, const at::Tensor& flat) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& range : layout.ranges()) tensors.emplace(range.name, layout.view(flat, range));
  return tensors;
}

}  // namespace

fs::path checkpoint_path(const fs::path& checkpoints, std::int64_t step) {
  return checkpoints / fmt::format("{}{:08}", kPrefix, step);
}

fs::path save_checkpoint(const fs::path& checkpoints, const TrainingState& state, const CheckpointOrigin& origin,
                         std::uint64_t metrics_bytes) {
  const fs::path final_path = checkpoint_path(checkpoints, state.progress.step);
  if (fs::exists(final_path)) throw CheckpointError(final_path, "exists already; a checkpoint is never overwritten");
  const fs::path folder = final_path.string() + std::string(kUnfinishedSuffix);
  fs::remove_all(folder);  // what a start that died in the middle of this step left
  fs::create_directories(folder);
  try {
    CheckpointManifest manifest{.progress = state.progress,
                                .losses = state.losses,
                                .metrics_bytes = metrics_bytes,
                                .origin = origin,
                                .layout_sha256 = data::sha256_hex(state.arena.layout().description())};
    for (const auto& [name, flat] : state.arena.persistent()) {
      const fs::path file = folder / (name + ".safetensors");
      write_safetensors(file, logical_tensors(state.arena.layout(), flat));
      manifest.files[file.filename().string()] = {fs::file_size(file), data::sha256_of_file(file)};
    }
    data::write_file_durably(folder / CheckpointManifest::kFileName, std::string_view(to_json(manifest)));
    data::rename_durably(folder, final_path);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    throw;
  }
  return final_path;
}

std::vector<fs::path> list_checkpoints(const fs::path& checkpoints) {
  std::vector<fs::path> found;
  if (!fs::exists(checkpoints)) return found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints, error))
    if (entry.is_directory() && step_of(entry.path())) found.push_back(entry.path());
  // Not to be taken for an empty folder: the run would start anew.
  if (error) throw CheckpointError(checkpoints, "cannot be read: " + error.message());
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) { return *step_of(a) > *step_of(b); });
  return found;
}

void remove_old_checkpoints(const fs::path& checkpoints, std::int64_t keep) {
  const auto found = list_checkpoints(checkpoints);
  std::error_code ignored;  // a folder that cannot be removed costs space, not the run
  for (auto i = static_cast<std::size_t>(keep); i < found.size(); ++i) fs::remove_all(found[i], ignored);
  for (const auto& entry : fs::directory_iterator(checkpoints, ignored))
    if (entry.path().extension() == kUnfinishedSuffix) fs::remove_all(entry.path(), ignored);
}

CheckpointManifest verify_checkpoint(const fs::path& folder) {
  CheckpointManifest manifest = read_manifest(folder);
  for (const auto& [name, expected] : manifest.files) {
    const fs::path path = folder / name;
    if (!fs::exists(path)) throw DamagedCheckpoint(path, "is missing: the checkpoint is damaged");
    try {
      const std::uint64_t bytes = data::File::open_for_reading(path, data::Symlinks::refuse).size();
      if (bytes != expected.bytes)
        throw DamagedCheckpoint(
            path, fmt::format("has {} bytes instead of {}: the checkpoint is damaged", bytes, expected.bytes));
      if (data::sha256_of_file(path) != expected.sha256)
        throw DamagedCheckpoint(path, "does not match its SHA-256 in the manifest: the checkpoint is damaged");
    } catch (const data::DataError& error) {
      throw CheckpointError(path, std::string("cannot be read: ") + error.what());
    }
  }
  return manifest;
}

std::map<std::string, at::Tensor> read_checkpoint_tensors(const fs::path& folder, const std::string& file) {
  try {
    return read_safetensors(folder / file);
  } catch (const data::DataError& error) {
    throw CheckpointError(folder / file, error.what());
  }
}

}  // namespace perrin::trainer
