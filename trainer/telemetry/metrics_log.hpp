#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "data/file.hpp"

namespace perrin::trainer {

/// metrics.jsonl: one JSON object a line, appended and handed to the system at once. A checkpoint records how long the
/// file was, and a resume cuts it back to there, so that no step is ever recorded twice.
class MetricsLog {
 public:
  /// Opens or makes the file and cuts it to its first `bytes` bytes.
  /// @throws data::DataError if the file is shorter than `bytes`
  MetricsLog(const std::filesystem::path& path, std::uint64_t bytes);

  /// Appends one object; a non-finite number becomes null, since JSON has no NaN.
  void write(const nlohmann::json& row);
  /// Puts what was written on the device. @return the length of the file, for the checkpoint
  std::uint64_t sync();

 private:
  data::File file_;
  std::uint64_t bytes_;
};

}  // namespace perrin::trainer
