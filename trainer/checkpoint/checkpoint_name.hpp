#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace perrin::trainer {

/// A checkpoint's folder is called step-<step>-i<incarnation>, a snapshot's step-<step>. The incarnation counts the
/// starts of the run and its returns to an earlier checkpoint: after those the branch that was left has the higher
/// steps, but not the higher incarnation.
struct CheckpointName {
  std::int64_t incarnation = 0;  ///< 0: none in the name
  std::int64_t step = 0;

  /// Newest last.
  auto operator<=>(const CheckpointName&) const = default;
};

/// More starts than a run has: a higher number is not perrin's.
inline constexpr std::int64_t kMostIncarnations = 1'000'000'000;

/// nullopt for any other name.
std::optional<CheckpointName> parse_checkpoint_name(const std::filesystem::path& folder);
std::filesystem::path checkpoint_path(const std::filesystem::path& folder, const CheckpointName& name);

/// Folders named like checkpoints or snapshots, newest first. Says nothing about their contents.
/// @throws CheckpointError if the folder exists and cannot be read
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& checkpoints);

/// The name that a folder has while it is written or removed: remove_unfinished() takes it, and the files that
/// data::write_file_durably() left.
std::filesystem::path unfinished(const std::filesystem::path& folder);
/// Removes what interrupted writes and removals left. Never fails: a folder that stays costs space, not the run.
void remove_unfinished(const std::filesystem::path& parent) noexcept;

}  // namespace perrin::trainer
