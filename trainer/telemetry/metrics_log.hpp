#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "data/file.hpp"

namespace perrin::trainer {

/// metrics.jsonl: one JSON object a line, appended and handed to the system at once. A checkpoint records how long the
/// file was, and a resume cuts it back to there, so that no step is ever recorded twice.
class MetricsLog {
 public:
  /// Opens or makes the file and cuts it to its first `bytes` bytes.
  /// @throws data::DataError if the file is shorter than `bytes`
  MetricsLog(const std::filesystem::path& path, std::uint64_t bytes);

  /// Appends one object; a non-finite number becomes null, since JSON has no NaN. What cannot be written now, for want
  /// of space say, is kept and written with a later row; the first time it says so in the log.
  void write(const nlohmann::json& row);
  /// Length of the file, for the checkpoint.
  std::uint64_t bytes() const { return bytes_; }
  /// Puts what was written on the device; any thread may call it. @throws data::DataError
  void sync();

 private:
  data::File file_;
  std::uint64_t bytes_;
  std::string pending_;  // not yet written
};

}  // namespace perrin::trainer
