#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace perrin::data {

/// Whether a symbolic link as the last part of a path is followed or refused.
enum class Symlinks { follow, refuse };

/// An open file descriptor of a regular file. Every failure is a DataError with the system's reason and a remedy.
/// Reading is safe from several threads at once.
class File {
 public:
  /// Opens an existing regular file; never blocks on a pipe, never writes.
  static File open_for_reading(const std::filesystem::path& path, Symlinks symlinks = Symlinks::follow);
  /// Opens an existing file for writing; its contents stay.
  static File open_for_writing(const std::filesystem::path& path);
  /// Makes a new file; one that exists is an error and stays as it is.
  static File create(const std::filesystem::path& path);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  int descriptor() const noexcept { return descriptor_; }
  const std::filesystem::path& path() const noexcept { return path_; }
  /// Bytes in the file now.
  std::uint64_t size() const;

  /// Fills `into` from `offset` on; interrupted and short reads are repeated, an early end is an error.
  void pread_exact(std::span<std::byte> into, std::uint64_t offset) const;
  /// Has the kernel read a range into the page cache (0 bytes: up to the end); returns at once.
  void read_ahead(std::uint64_t offset, std::uint64_t bytes) const noexcept;
  /// Writes all bytes at the current end of what was written.
  void write_all(std::span<const std::byte> bytes);
  /// Writes all bytes at `offset`.
  void pwrite_all(std::span<const std::byte> bytes, std::uint64_t offset);
  /// Has the kernel begin to bring a written range to the device; returns at once.
  void start_writeback(std::uint64_t offset, std::uint64_t bytes) noexcept;
  /// fsync: what was written is on the device when this returns.
  void sync();
  /// Closes and reports the failure that a destructor would have to swallow; network file systems report a full disk
  /// here.
  void close();

 private:
  File(int descriptor, std::filesystem::path path) noexcept;

  int descriptor_ = -1;
  std::filesystem::path path_;
};

/// The whole file, at most `limit` bytes (larger is an error, before anything is allocated).
std::vector<std::byte> read_file(const std::filesystem::path& path, std::uint64_t limit = UINT64_MAX);
std::string read_text_file(const std::filesystem::path& path, std::uint64_t limit = UINT64_MAX);

/// Replaces or makes `path` so that after a crash it holds either the old or the new contents, whole: writes a
/// temporary file beside it, fsync, rename, fsync of the folder. On failure nothing is left behind.
void write_file_durably(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_durably(const std::filesystem::path& path, std::string_view text);

/// rename() and fsync of the folder that holds `to`. A folder never replaces one that has contents.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// fsync of a folder: the names in it are on the device when this returns.
void sync_folder(const std::filesystem::path& folder);

/// "No space left on device; free space on this file system or choose another folder": the system's words and what
/// helps.
std::string describe_errno(int error);

}  // namespace perrin::data
