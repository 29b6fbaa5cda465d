#include "launch/writable_folder.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "trainer/run_error.hpp"

namespace perrin::launch {

void require_writable_folder(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path existing = fs::absolute(folder.empty() ? fs::path(".") : folder);
  while (!fs::exists(fs::symlink_status(existing, error)) && existing.has_relative_path())
    existing = existing.parent_path();
  std::string reason;
  if (!fs::is_directory(existing, error)) {
    reason = "it is not a folder";
  } else if (::access(existing.c_str(), W_OK | X_OK) != 0) {
    reason = std::strerror(errno);
  } else {
    return;
  }
  throw trainer::RunError(fmt::format("cannot write in {}: {} ({}); choose another folder or change its permissions",
                                      folder.string(), existing.string(), reason));
}

void make_writable_folder(const std::filesystem::path& folder) {
  require_writable_folder(folder);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    throw trainer::RunError(fmt::format("cannot make {}: {}; choose another folder", folder.string(), error.message()));
}

}  // namespace perrin::launch
