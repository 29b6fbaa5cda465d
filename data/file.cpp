#include "data/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "data/data_error.hpp"

namespace perrin::data {
namespace {

namespace fs = std::filesystem;

// Linux moves at most this many bytes in one call; asking for more is answered short on every call.
constexpr std::size_t kMaxTransferBytes = 0x7ffff000;

constexpr mode_t kNewFileMode = 0666;  // less the user's umask

[[noreturn]] void fail(const fs::path& path, std::string_view action, int error) {
  throw DataError(path, fmt::format("cannot {}: {}", action, describe_errno(error)));
}

/// Systems allow 1,024 open files by default and more to who asks. @return whether there are more now
bool raise_open_file_limit() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return false;
  limit.rlim_cur = limit.rlim_max;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

int open_retrying(const fs::path& path, int flags, mode_t mode = 0) {
  for (;;) {
    const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    if (descriptor >= 0) return descriptor;
    const int error = errno;
    if (error == EINTR || (error == EMFILE && raise_open_file_limit())) continue;
    errno = error;
    return descriptor;
  }
}

fs::path folder_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

std::span<const std::byte> as_bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

template <class Container>
Container read_whole(const fs::path& path, std::uint64_t limit) {
  const File file = File::open_for_reading(path);
  const std::uint64_t size = file.size();
  if (size > limit) {
    throw DataError(path,
                    fmt::format("has {} bytes where at most {} make sense; is this the right file?", size, limit));
  }
  Container contents;
  contents.resize(size);
  file.pread_exact(std::as_writable_bytes(std::span(contents.data(), contents.size())), 0);
  return contents;
}

}  // namespace

std::string describe_errno(int error) {
  const std::string reason = std::generic_category().message(error);
  const char* remedy = nullptr;
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      remedy = "free space there or choose a folder on another file system";
      break;
    case EFBIG:
      remedy = "raise the file size limit (ulimit -f)";
      break;
    case EACCES:
    case EPERM:
      remedy = "check owner and permissions of it and of its folder";
      break;
    case EROFS:
      remedy = "choose a folder on a writable file system";
      break;
    case ENOENT:
    case ENOTDIR:
      remedy = "check the path";
      break;
    case ELOOP:
      remedy = "symbolic links are not followed here; put the file itself in the folder";
      break;
    case EMFILE:
    case ENFILE:
      remedy = "raise the limit of open files (ulimit -n)";
      break;
    case EIO:
      remedy = "the device or file server reports an error; see the system log, then restore the file";
      break;
    case EEXIST:
    case ENOTEMPTY:
      remedy = "nothing was overwritten; choose another name or remove it";
      break;
    case ENOLCK:
    case EOPNOTSUPP:
      remedy = "this file system has no locks; choose a folder on another one, or have it mounted with locks";
      break;
    default:
      return reason;
  }
  return fmt::format("{}; {}", reason, remedy);
}

File::File(int descriptor, fs::path path) noexcept : descriptor_(descriptor), path_(std::move(path)) {}

File::File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File File::open_for_reading(const fs::path& path, Symlinks symlinks) {
  // O_NONBLOCK: opening a pipe that nobody writes would wait for ever; a regular file does not notice.
  const int flags = O_RDONLY | O_NONBLOCK | (symlinks == Symlinks::refuse ? O_NOFOLLOW : 0);
  const int descriptor = open_retrying(path, flags);
  if (descriptor < 0) fail(path, "open for reading", errno);
  File file(descriptor, path);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) fail(path, "examine", errno);
  if (!S_ISREG(status.st_mode)) throw DataError(path, "is not a regular file; check the path");
  return file;
}

File File::open_for_writing(const fs::path& path) {
  const int descriptor = open_retrying(path, O_WRONLY);
  if (descriptor < 0) fail(path, "open for writing", errno);
  return File(descriptor, path);
}

File File::create(const fs::path& path) {
  const int descriptor = open_retrying(path, O_WRONLY | O_CREAT | O_EXCL, kNewFileMode);
  if (descriptor < 0) fail(path, "create", errno);
  return File(descriptor, path);
}

std::uint64_t File::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail(path_, "examine", errno);
  return static_cast<std::uint64_t>(status.st_size);
}

void File::pread_exact(std::span<std::byte> into, std::uint64_t offset) const {
  const std::size_t wanted = into.size();
  while (!into.empty()) {
    const ssize_t got =
        ::pread(descriptor_, into.data(), std::min(into.size(), kMaxTransferBytes), static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      fail(path_, fmt::format("read {} bytes at byte {}", into.size(), offset), errno);
    }
    if (got == 0) {
      throw DataError(path_, offset,
                      fmt::format("the file ends here, {} of {} wanted bytes short; it is truncated: restore it",
                                  into.size(), wanted));
    }
    into = into.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
}

void File::read_ahead(std::uint64_t offset, std::uint64_t bytes) const noexcept {
  // Advice only: where it is refused, bytes are read when they are wanted.
  ::posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

void File::write_all(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor_, bytes.data(), std::min(bytes.size(), kMaxTransferBytes));
    if (put < 0) {
      if (errno == EINTR) continue;
      fail(path_, "write", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

void File::pwrite_all(std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t put =
        ::pwrite(descriptor_, bytes.data(), std::min(bytes.size(), kMaxTransferBytes), static_cast<off_t>(offset));
    if (put < 0) {
      if (errno == EINTR) continue;
      fail(path_, fmt::format("write at byte {}", offset), errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
}

void File::start_writeback(std::uint64_t offset, std::uint64_t bytes) noexcept {
  // Advice only: sync() brings it there in any case.
  ::sync_file_range(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE);
}

void File::sync() {
  while (::fsync(descriptor_) != 0) {
    if (errno != EINTR) fail(path_, "bring to the device (fsync)", errno);
  }
}

void File::close() {
  // Linux has released the descriptor even when close() reports EINTR: never call it twice.
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) fail(path_, "close", errno);
}

std::vector<std::byte> read_file(const fs::path& path, std::uint64_t limit) {
  return read_whole<std::vector<std::byte>>(path, limit);
}

std::string read_text_file(const fs::path& path, std::uint64_t limit) { return read_whole<std::string>(path, limit); }

void write_file_durably(const fs::path& path, std::span<const std::byte> bytes) {
  fs::path temporary = path;
  temporary += fmt::format(".tmp.{}", ::getpid());
  std::error_code ignored;
  fs::remove(temporary, ignored);  // of an earlier process with our number that was killed while writing
  try {
    File file = File::create(temporary);
    file.write_all(bytes);
    file.sync();
    file.close();
    rename_durably(temporary, path);
  } catch (...) {
    fs::remove(temporary, ignored);
    throw;
  }
}

void write_file_durably(const fs::path& path, std::string_view text) { write_file_durably(path, as_bytes_of(text)); }

void rename_durably(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail(to, fmt::format("rename {} to this", from.string()), errno);
  sync_folder(folder_of(to));
}

void sync_folder(const fs::path& folder) {
  const int descriptor = open_retrying(folder, O_RDONLY | O_DIRECTORY);
  if (descriptor < 0) fail(folder, "open the folder", errno);
  int error = 0;
  while (::fsync(descriptor) != 0) {
    error = errno;
    if (error != EINTR) break;
    error = 0;
  }
  ::close(descriptor);
  // EINVAL: the file system keeps names without being asked and knows no fsync of a folder.
  if (error != 0 && error != EINVAL) fail(folder, "bring the folder to the device (fsync)", error);
}

}  // namespace perrin::data
