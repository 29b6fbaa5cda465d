#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

namespace perrin::trainer {

/// A checkpoint that cannot be written, is damaged, or belongs to another run. what() reads "<path>: <reason and remedy>".
class CheckpointError : public std::runtime_error {
 public:
  CheckpointError(std::filesystem::path path, const std::string& reason)
      : std::runtime_error(path.string() + ": " + reason), path_(std::move(path)) {}

  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace perrin::trainer
