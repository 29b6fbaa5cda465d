#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

namespace perrin::trainer {

/// A checkpoint that cannot be read or written, is damaged, or belongs to another run. what() reads "<path>: <reason
/// and remedy>".
class CheckpointError : public std::runtime_error {
 public:
  CheckpointError(std::filesystem::path path, const std::string& reason)
      : std::runtime_error(path.string() + ": " + reason), path_(std::move(path)) {}

  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

/// A checkpoint whose contents are not what was written: a missing, shortened or altered file. Another checkpoint may
/// serve instead, which does not hold for any other CheckpointError.
class DamagedCheckpoint : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};

}  // namespace perrin::trainer
