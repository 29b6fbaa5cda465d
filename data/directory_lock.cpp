#include "data/directory_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <string_view>
#include <thread>

#include "data/data_error.hpp"
#include "data/file.hpp"

namespace perrin::data {
namespace {

constexpr mode_t kLockFileMode = 0666;  // less the user's umask
constexpr std::size_t kHolderBytes = 512;
constexpr std::chrono::milliseconds kTryAgain{100};

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown host";
}

std::string holder_in(int descriptor) {
  std::array<char, kHolderBytes> text{};
  const ssize_t got = ::pread(descriptor, text.data(), text.size(), 0);
  if (got <= 0) return "another process";
  const std::string_view line(text.data(), static_cast<std::size_t>(got));
  return std::string(line.substr(0, line.find('\n')));
}

/// A holder may remove its file on release: a lock on the removed file protects nothing.
bool is_still_at(int descriptor, const std::filesystem::path& path) {
  struct stat held {};
  struct stat named {};
  return ::fstat(descriptor, &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_dev == named.st_dev &&
         held.st_ino == named.st_ino;
}

int open_and_lock(const std::filesystem::path& path, std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kLockFileMode);
    if (descriptor < 0) throw DataError(path, fmt::format("cannot open the lock: {}", describe_errno(errno)));
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
      if (is_still_at(descriptor, path)) return descriptor;
      ::close(descriptor);
      continue;
    }
    const int error = errno;
    const std::string holder = error == EWOULDBLOCK ? holder_in(descriptor) : std::string();
    ::close(descriptor);
    if (error == EINTR) continue;
    if (error == EWOULDBLOCK && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(kTryAgain);
      continue;
    }
    if (error == EWOULDBLOCK) {
      throw DataError(path, fmt::format("this folder is in use by {}; wait until it ends, stop it, or choose another "
                                        "folder",
                                        holder));
    }
    throw DataError(path, fmt::format("cannot lock: {}", describe_errno(error)));
  }
}

}  // namespace

DirectoryLock::DirectoryLock(const std::filesystem::path& folder, const std::string& file_name, OnRelease on_release,
                             std::chrono::milliseconds patience)
    : path_(folder / file_name), on_release_(on_release) {
  descriptor_ = open_and_lock(path_, patience);
  const std::string holder = fmt::format("process {} on {}\n", ::getpid(), host_name());
  // The lock itself holds without the text, so a full disk only makes a later message less helpful.
  if (::ftruncate(descriptor_, 0) == 0) {
    [[maybe_unused]] const ssize_t put = ::pwrite(descriptor_, holder.data(), holder.size(), 0);
  }
}

DirectoryLock& DirectoryLock::operator=(DirectoryLock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  std::swap(on_release_, other.on_release_);
  return *this;
}

DirectoryLock::~DirectoryLock() {
  if (descriptor_ < 0) return;
  if (on_release_ == OnRelease::remove_file) ::unlink(path_.c_str());
  ::close(descriptor_);
}

}  // namespace perrin::data
