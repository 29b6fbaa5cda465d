#pragma once

#include <filesystem>

namespace perrin::launch {

/// A new folder inside another one, removed at the end.
class TemporaryFolder {
 public:
  /// @throws std::filesystem::filesystem_error with the remedy
  explicit TemporaryFolder(const std::filesystem::path& parent = std::filesystem::temp_directory_path());
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace perrin::launch
