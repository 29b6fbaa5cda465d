// Preloaded into a program, ends it (SIGKILL) before or after its n-th change of files under one folder, so that a
// crash can be staged at every point once. A library call stands for the system call that it makes.
//
// PERRIN_CRASH_FOLDER  absolute path without symbolic links; other files do not count
// PERRIN_CRASH_AT      n, from 1; 0: never
// PERRIN_CRASH_WHEN    "before" or "after" the call
// PERRIN_CRASH_LOG     a file that gets a line for each call: "<n> <call> <path>"
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

namespace {

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

struct Plan {
  std::string folder = environment("PERRIN_CRASH_FOLDER");
  long at = std::atol(environment("PERRIN_CRASH_AT").c_str());
  bool after = environment("PERRIN_CRASH_WHEN") == "after";
  int log = environment("PERRIN_CRASH_LOG").empty()
                ? -1
                : ::open(environment("PERRIN_CRASH_LOG").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
};

const Plan& plan() {
  static const Plan* const only = new Plan;  // never freed: calls come until the last moment
  return *only;
}

std::atomic<long> g_calls{0};

std::string path_of(int descriptor) {
  char link[64], path[4096];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = ::readlink(link, path, sizeof path);
  return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : "";
}

std::string path_at(int folder, const char* name) {
  return folder == AT_FDCWD || name[0] == '/' ? name : path_of(folder) + "/" + name;
}

/// Makes the call, and dies where the plan says so.
template <class Call>
auto at_point(const char* name, const std::string& path, Call&& call) {
  const Plan& p = plan();
  if (p.folder.empty() || path.compare(0, p.folder.size(), p.folder) != 0) return std::forward<Call>(call)();
  const long number = ++g_calls;
  if (p.log >= 0) {
    const std::string line = std::to_string(number) + " " + name + " " + path + "\n";
    static auto* const write_log = next<ssize_t(int, const void*, size_t)>("write");
    if (write_log(p.log, line.data(), line.size()) < 0) std::abort();
  }
  if (number == p.at && !p.after) ::kill(::getpid(), SIGKILL);
  const auto result = std::forward<Call>(call)();
  if (number == p.at && p.after) ::kill(::getpid(), SIGKILL);
  return result;
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t size) {
  static auto* const call = next<ssize_t(int, const void*, size_t)>("write");
  return at_point("write", path_of(fd), [&] { return call(fd, data, size); });
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  static auto* const call = next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  return at_point("pwrite", path_of(fd), [&] { return call(fd, data, size, offset); });
}

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
  static auto* const call = next<ssize_t(int, const void*, size_t, off64_t)>("pwrite64");
  return at_point("pwrite", path_of(fd), [&] { return call(fd, data, size, offset); });
}

int ftruncate(int fd, off_t size) noexcept {
  static auto* const call = next<int(int, off_t)>("ftruncate");
  return at_point("ftruncate", path_of(fd), [&] { return call(fd, size); });
}

int fsync(int fd) {
  static auto* const call = next<int(int)>("fsync");
  return at_point("fsync", path_of(fd), [&] { return call(fd); });
}

int close(int fd) {
  static auto* const call = next<int(int)>("close");
  return at_point("close", path_of(fd), [&] { return call(fd); });
}

int rename(const char* from, const char* to) noexcept {
  static auto* const call = next<int(const char*, const char*)>("rename");
  return at_point("rename", to, [&] { return call(from, to); });
}

int mkdir(const char* path, mode_t mode) noexcept {
  static auto* const call = next<int(const char*, mode_t)>("mkdir");
  return at_point("mkdir", path, [&] { return call(path, mode); });
}

int unlink(const char* path) noexcept {
  static auto* const call = next<int(const char*)>("unlink");
  return at_point("unlink", path, [&] { return call(path); });
}

int unlinkat(int folder, const char* name, int flags) noexcept {
  static auto* const call = next<int(int, const char*, int)>("unlinkat");
  return at_point("unlink", path_at(folder, name), [&] { return call(folder, name, flags); });
}

int rmdir(const char* path) noexcept {
  static auto* const call = next<int(const char*)>("rmdir");
  return at_point("rmdir", path, [&] { return call(path); });
}

int remove(const char* path) noexcept {
  static auto* const call = next<int(const char*)>("remove");
  return at_point("remove", path, [&] { return call(path); });
}

}  // extern "C"
