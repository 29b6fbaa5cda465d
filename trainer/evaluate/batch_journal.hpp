#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/file.hpp"

namespace perrin::trainer {

/// Batches of long work that are done, in a file, so that an interrupted evaluation goes on where it was. Batches are
/// records of one size, in order, each with its checksum; the file begins with a hash of all that they depend on. It is
/// locked for its one writer. A record that a fault cut short, and all after it, count as not done.
class BatchJournal {
 public:
  /// Opens the journal of this key, or begins it anew where there is none, or that of another key.
  /// @param key  everything that the records depend on, as text
  /// @throws data::DataError where the file cannot be made or read, or another process writes it
  BatchJournal(const std::filesystem::path& path, const std::string& key, std::size_t record_bytes);

  /// Batches 0 .. size() - 1 are done.
  std::int64_t size() const { return size_; }
  void append(std::span<const std::uint8_t> record);
  std::vector<std::uint8_t> read(std::int64_t batch) const;

  /// Deletes a journal that is needed no more, unless a process writes it, or the file system cannot tell.
  static void remove_abandoned(const std::filesystem::path& path);

 private:
  bool try_read(std::int64_t batch, std::span<std::byte> framed) const;
  std::uint64_t offset_of(std::int64_t batch) const;

  std::filesystem::path path_;
  std::size_t record_bytes_;
  std::optional<data::File> file_;  // locked
  std::int64_t size_ = 0;
};

}  // namespace perrin::trainer
