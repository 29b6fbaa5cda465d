#include "data/data_error.hpp"

#include <fmt/format.h>

#include <utility>

namespace perrin::data {

DataError::DataError(std::filesystem::path file, const std::string& message)
    : std::runtime_error(fmt::format("{}: {}", file.string(), message)), file_(std::move(file)) {}

DataError::DataError(std::filesystem::path file, std::uint64_t offset, const std::string& message)
    : std::runtime_error(fmt::format("{}: byte {}: {}", file.string(), offset, message)),
      file_(std::move(file)),
      offset_(offset) {}

}  // namespace perrin::data
