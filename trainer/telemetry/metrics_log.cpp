#include "trainer/telemetry/metrics_log.hpp"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <span>

#include "data/data_error.hpp"

namespace perrin::trainer {
namespace {

data::File open_or_create(const std::filesystem::path& path) {
  if (std::filesystem::exists(path)) return data::File::open_for_writing(path);
  data::File file = data::File::create(path);
  data::sync_folder(
      path.parent_path());  // a checkpoint may outlive a power failure only together with the file it speaks of
  return file;
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& path, std::uint64_t bytes)
    : file_(open_or_create(path)), bytes_(bytes) {
  if (file_.size() < bytes)
    throw data::DataError(path, "holds " + std::to_string(file_.size()) +
                                    " bytes, but the checkpoint was made when it held " + std::to_string(bytes) +
                                    "; restore the file, or delete it and the checkpoints to start the run anew");
  if (::ftruncate(file_.descriptor(), static_cast<off_t>(bytes)) != 0)
    throw data::DataError(path, "cannot be cut back to the checkpoint: " + data::describe_errno(errno));
}

void MetricsLog::write(const nlohmann::json& row) {
  const bool was_stuck = !pending_.empty();
  pending_ += row.dump() + "\n";
  try {
    file_.pwrite_all(std::as_bytes(std::span(pending_)), bytes_);
    bytes_ += pending_.size();
    pending_.clear();
  } catch (const data::DataError& error) {
    if (!was_stuck) spdlog::warn("{}; training goes on, and the rows are written later", error.what());
  }
}

void MetricsLog::sync() { file_.sync(); }

}  // namespace perrin::trainer
