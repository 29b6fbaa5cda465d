#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include "data/directory_lock.hpp"

namespace perrin::trainer {

/// The names inside a run folder. Knows paths only; touches no disk.
class RunPaths {
 public:
  explicit RunPaths(std::filesystem::path root) : root_(std::move(root)) {}

  const std::filesystem::path& root() const { return root_; }
  /// The resolved configuration, as text.
  std::filesystem::path config() const { return root_ / "config.toml"; }
  /// One JSON object a line.
  std::filesystem::path metrics() const { return root_ / "metrics.jsonl"; }
  /// There once all steps are done: "step N".
  std::filesystem::path completed() const { return root_ / "COMPLETED"; }
  /// Which start of the run this is.
  std::filesystem::path incarnation() const { return root_ / "incarnation.json"; }
  std::filesystem::path checkpoints() const { return root_ / "checkpoints"; }
  /// Of the power-function averages.
  std::filesystem::path snapshots() const { return root_ / "snapshots"; }
  std::filesystem::path samples() const { return root_ / "samples"; }
  /// Of samples that are being scored, and the statistics that they are compared with.
  std::filesystem::path evaluation() const { return root_ / "evaluation"; }
  std::filesystem::path logs() const { return root_ / "logs"; }
  /// Of the last collectives of each rank; survives any death.
  std::filesystem::path flight() const { return root_ / "flight"; }
  /// Timelines of single steps.
  std::filesystem::path trace() const { return root_ / "trace"; }
  std::filesystem::path sample_grid(std::int64_t step) const;

 private:
  std::filesystem::path root_;
};

/// Makes the folders of a run and holds it, so that no second start of the same run writes beside this one. One per
/// run, on rank 0.
/// @param patience waits so long for another process to let go: a start that replaces one whose last ranks still end
/// @throws RunError if another process holds the run or the folder cannot be written, naming the holder or the reason
data::DirectoryLock claim_run_folder(const RunPaths& paths,
                                     std::chrono::milliseconds patience = std::chrono::milliseconds(0));

}  // namespace perrin::trainer
