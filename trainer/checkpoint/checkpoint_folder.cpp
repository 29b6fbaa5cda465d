#include "trainer/checkpoint/checkpoint_folder.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <memory>
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

CheckpointManifest describe(Contents contents, const TrainingState& state, const CheckpointOrigin& origin) {
  return {.contents = contents,
          .progress = state.progress,
          .losses = {},
          .origin = origin,
          .layout_sha256 = data::sha256_hex(state.arena.layout().description()),
          .files = {}};
}

/// A folder under a temporary name that takes one file after the other and is published when all are there, or goes.
class UnpublishedFolder {
 public:
  /// @throws CheckpointError if the step has a folder already
  UnpublishedFolder(const fs::path& parent, std::int64_t step)
      : final_path_(checkpoint_path(parent, step)), folder_(final_path_.string() + std::string(kUnfinishedSuffix)) {
    if (fs::exists(final_path_)) throw CheckpointError(final_path_, "exists already and is never overwritten");
    fs::remove_all(folder_);  // what a start that died in the middle of this step left
    fs::create_directories(folder_);
  }
  UnpublishedFolder(const UnpublishedFolder&) = delete;
  UnpublishedFolder& operator=(const UnpublishedFolder&) = delete;
  ~UnpublishedFolder() {
    std::error_code ignored;
    if (!published_) fs::remove_all(folder_, ignored);
  }

  void add(const std::string& name, const std::map<std::string, at::Tensor>& tensors) {
    write_safetensors(folder_ / name, tensors);
    files_[name] = {fs::file_size(folder_ / name), data::sha256_of_file(folder_ / name)};
  }
  void publish(CheckpointManifest manifest) {
    manifest.files = files_;
    data::write_file_durably(folder_ / CheckpointManifest::kFileName, std::string_view(to_json(manifest)));
    data::rename_durably(folder_, final_path_);
    published_ = true;
  }

 private:
  fs::path final_path_, folder_;
  std::map<std::string, CheckpointFile> files_;
  bool published_ = false;
};

/// The folder of a step that is being written; null on the ranks that do not write.
std::unique_ptr<UnpublishedFolder> folder_of(const fs::path& parent, const TrainingState& state) {
  if (state.arena.plan().rank() != 0) return nullptr;
  return std::make_unique<UnpublishedFolder>(parent, state.progress.step);
}

/// Puts a buffer together, and adds it where the folder is. Collective.
void add_buffer(UnpublishedFolder* folder, const PersistentBuffer& buffer, const ParameterLayout& layout,
                const ShardGather& shards) {
  const at::Tensor whole = shards.materialise(buffer);
  if (folder) folder->add(buffer.name + ".safetensors", logical_tensors(layout, whole));
}

/// What interrupted writes left in `parent`.
void remove_unfinished(const fs::path& parent) {
  std::error_code ignored;  // a folder that cannot be removed costs space, not the run
  for (const auto& entry : fs::directory_iterator(parent, ignored))
    if (entry.path().extension() == kUnfinishedSuffix) fs::remove_all(entry.path(), ignored);
}

}  // namespace

fs::path checkpoint_path(const fs::path& checkpoints, std::int64_t step) {
  return checkpoints / fmt::format("{}{:08}", kPrefix, step);
}

void save_checkpoint(const fs::path& checkpoints, const TrainingState& state, const ShardGather& shards,
                     const CheckpointOrigin& origin, std::uint64_t metrics_bytes) {
  const auto folder = folder_of(checkpoints, state);
  for (const PersistentBuffer& buffer : state.arena.persistent())
    add_buffer(folder.get(), buffer, state.arena.layout(), shards);
  if (!folder) return;
  if (const LossHistory& history = state.loss_history; history.timesteps() > 0)
    folder->add(kLossHistoryFile, {{"losses", at::tensor(history.losses(), at::kDouble)},
                                   {"counts", at::tensor(history.counts(), at::kLong)}});
  CheckpointManifest manifest = describe(Contents::checkpoint, state, origin);
  manifest.losses = state.losses;
  manifest.metrics_bytes = metrics_bytes;
  folder->publish(std::move(manifest));
}

void save_snapshot(const fs::path& snapshots, const TrainingState& state, const ShardGather& shards,
                   const CheckpointOrigin& origin) {
  if (state.progress.updates == 0) return;
  const auto folder = folder_of(snapshots, state);
  for (std::size_t i = 0; i < origin.power_sigmas.size(); ++i)
    add_buffer(folder.get(), state.arena.ema(origin.ema_decays.size() + i), state.arena.layout(), shards);
  if (folder) folder->publish(describe(Contents::snapshot, state, origin));
}

void discard_snapshots_after(const fs::path& snapshots, std::int64_t step) {
  std::int64_t discarded = 0;
  for (const fs::path& folder : list_checkpoints(snapshots)) {
    if (*step_of(folder) <= step) break;  // newest first
    const fs::path unfinished = folder.string() + std::string(kUnfinishedSuffix);
    fs::remove_all(unfinished);
    data::rename_durably(folder, unfinished);  // a start that dies now leaves no half of a snapshot
    ++discarded;
  }
  remove_unfinished(snapshots);
  if (discarded > 0)
    spdlog::warn("{}: {} snapshots of steps after {} removed; the run makes them again", snapshots.string(), discarded,
                 step);
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
  std::error_code ignored;
  for (auto i = static_cast<std::size_t>(keep); i < found.size(); ++i) fs::remove_all(found[i], ignored);
  remove_unfinished(checkpoints);
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

}  // namespace perrin::trainer
