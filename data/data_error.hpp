#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>

namespace perrin::data {

/// A file, folder or dataset that cannot be used as it is. what() reads "<file>: <message>", or
/// "<file>: byte <offset>: <message>" where the offset is known; the message ends with the remedy.
class DataError : public std::runtime_error {
 public:
  DataError(std::filesystem::path file, const std::string& message);
  DataError(std::filesystem::path file, std::uint64_t offset, const std::string& message);

  const std::filesystem::path& file() const noexcept { return file_; }
  std::optional<std::uint64_t> offset() const noexcept { return offset_; }

 private:
  std::filesystem::path file_;
  std::optional<std::uint64_t> offset_;
};

}  // namespace perrin::data
