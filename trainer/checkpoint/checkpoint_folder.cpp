#include "trainer/checkpoint/checkpoint_folder.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <stdexcept>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/interchange/safetensors.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

}  // namespace

void discard_snapshots_after(const fs::path& snapshots, std::int64_t step) {
  std::int64_t discarded = 0;
  for (const fs::path& folder : list_checkpoints(snapshots)) {
    if (parse_checkpoint_name(folder)->step <= step) break;  // newest first
    fs::remove_all(unfinished(folder));
    data::rename_durably(folder, unfinished(folder));  // a start that dies now leaves no half of a snapshot
    ++discarded;
  }
  remove_unfinished(snapshots);
  if (discarded > 0)
    spdlog::warn("{}: {} snapshots of steps after {} removed; the run makes them again", snapshots.string(), discarded,
                 step);
}

CheckpointManifest verify_checkpoint(const fs::path& folder, Contents expected) {
  CheckpointManifest manifest = read_manifest(folder, expected);
  const std::string verdict = expected == Contents::checkpoint
                                  ? "the checkpoint is damaged"
                                  : "the snapshot is damaged; move it away to reconstruct without it";
  for (const auto& [name, file] : manifest.files) {
    const fs::path path = folder / name;
    if (!fs::exists(path)) throw DamagedCheckpoint(path, "is missing: " + verdict);
    try {
      const std::uint64_t bytes = data::File::open_for_reading(path, data::Symlinks::refuse).size();
      if (bytes != file.bytes)
        throw DamagedCheckpoint(path, fmt::format("has {} bytes instead of {}: {}", bytes, file.bytes, verdict));
      if (data::sha256_of_file(path) != file.sha256)
        throw DamagedCheckpoint(path, "does not match its SHA-256 in the manifest: " + verdict);
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

std::map<std::string, at::Tensor> read_checkpoint_buffer(const fs::path& folder, const CheckpointManifest& manifest,
                                                         const std::string& buffer) {
  std::map<std::string, at::Tensor> tensors;
  try {
    for (const std::string& file : manifest.files_of(buffer)) tensors.merge(read_checkpoint_tensors(folder, file));
  } catch (const std::out_of_range& error) {
    throw CheckpointError(folder, error.what());
  }
  return tensors;
}

}  // namespace perrin::trainer
