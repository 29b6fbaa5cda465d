#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "data/file.hpp"

namespace perrin::data {

/// A whole file as memory, read-only. The page cache is the only copy, whichever processes of a node map it.
class MappedFile {
 public:
  /// @param file  may be closed afterwards
  /// @throws DataError if the system does not map it
  explicit MappedFile(const File& file);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  /// Touching a byte that the file no longer has raises SIGBUS: read by guarded_copy().
  std::span<const std::byte> bytes() const noexcept { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace perrin::data
