#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <utility>

namespace perrin::data {

/// One process at a time works in a folder: an exclusive flock() on a small file in it, which says who holds it.
/// The kernel releases the lock when the process dies, however it dies; no stale lock needs to be removed by hand.
class DirectoryLock {
 public:
  enum class OnRelease { keep_file, remove_file };

  /// Takes the lock or throws a DataError that names host and process of the holder.
  /// @param folder     must exist
  /// @param file_name  the lock file inside it; made when missing
  /// @param patience   how long to wait for the holder to let go
  explicit DirectoryLock(const std::filesystem::path& folder, const std::string& file_name = ".lock",
                         OnRelease on_release = OnRelease::keep_file,
                         std::chrono::milliseconds patience = std::chrono::milliseconds(0));
  DirectoryLock(DirectoryLock&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)),
        path_(std::move(other.path_)),
        on_release_(other.on_release_) {}
  DirectoryLock& operator=(DirectoryLock&& other) noexcept;
  ~DirectoryLock();

  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  int descriptor_ = -1;
  std::filesystem::path path_;
  OnRelease on_release_;
};

}  // namespace perrin::data
