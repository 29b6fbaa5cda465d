#include "trainer/run_folder.hpp"

#include <fmt/format.h>

#include <system_error>

#include "data/data_error.hpp"
#include "trainer/run_error.hpp"

namespace perrin::trainer {

std::filesystem::path RunPaths::sample_grid(std::int64_t step) const {
  return samples() / fmt::format("step-{:08}.png", step);
}

data::DirectoryLock claim_run_folder(const RunPaths& paths, std::chrono::milliseconds patience) {
  for (const auto& folder : {paths.root(), paths.checkpoints(), paths.samples(), paths.logs()}) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error)
      throw RunError(fmt::format(
          "cannot make the run folder {}: {}; choose another one with --run.directory=DIR or change its permissions",
          folder.string(), error.message()));
  }
  try {
    return data::DirectoryLock(paths.root(), "run.lock", data::DirectoryLock::OnRelease::keep_file, patience);
  } catch (const data::DataError& error) {
    throw RunError(fmt::format("cannot claim the run folder: {}", error.what()));
  }
}

}  // namespace perrin::trainer
