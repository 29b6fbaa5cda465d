#pragma once

#include <filesystem>
#include <functional>

#include "data/directory_lock.hpp"
#include "data/manifest.hpp"

namespace perrin::data {

/// A folder beside the output in which a dataset grows. Its owner alone makes it, holds the lock beside it, and renames
/// it at the end; others may write shards into it meanwhile. It outlives its owner while it holds settled shards, for
/// the next run.
class StagingFolder {
 public:
  /// Where the folder of an output is: `.NAME.partial`.
  static std::filesystem::path path_for(const std::filesystem::path& output);

  /// Makes it, or takes what a run that was stopped has left there, without its unfinished shards.
  /// @throws DataError for an output in use, or a file that no such run leaves
  explicit StagingFolder(const std::filesystem::path& output);
  StagingFolder(const StagingFolder&) = delete;
  StagingFolder& operator=(const StagingFolder&) = delete;
  ~StagingFolder();

  const std::filesystem::path& path() const noexcept { return path_; }
  /// Writes the manifest, removes what it does not name, and gives the folder the output's name.
  void publish(const Manifest& manifest);

 private:
  void remove_unfinished() const;
  void remove_if(const std::function<bool(const std::filesystem::path& file)>& unwanted) const;

  std::filesystem::path output_;
  std::filesystem::path path_;
  DirectoryLock lock_;
  bool published_ = false;
};

}  // namespace perrin::data
