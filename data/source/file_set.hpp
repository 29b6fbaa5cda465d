#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace perrin::data {

class ZipArchive;

/// Files that belong together, below a folder or in an archive, sorted by name.
class FileSet {
 public:
  virtual ~FileSet() = default;

  virtual const std::filesystem::path& path() const = 0;
  virtual std::size_t size() const = 0;
  /// With folders, '/' between them: "cat/7.png".
  virtual const std::string& relative_name(std::size_t file) const = 0;
  /// For errors: "pets.zip: cat/7.png".
  virtual std::string name(std::size_t file) const = 0;
  /// The whole file. @throws DataError, also for one of more than `limit` bytes
  virtual std::vector<std::byte> read(std::size_t file, std::uint64_t limit) const = 0;
};

/// All files below a folder but those whose name, or whose folder's, starts with a dot.
/// @throws DataError for links to folders, which could lead round in a circle
std::unique_ptr<FileSet> files_in_folder(const std::filesystem::path& folder);
std::unique_ptr<FileSet> files_in_zip(std::unique_ptr<ZipArchive> archive);

}  // namespace perrin::data
