#include "data/source/file_set.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/source/zip_archive.hpp"

namespace perrin::data {
namespace {

namespace fs = std::filesystem;

class FolderFiles : public FileSet {
 public:
  explicit FolderFiles(fs::path folder) : folder_(std::move(folder)) {
    try {
      collect();
    } catch (const fs::filesystem_error& error) {
      throw DataError(error.path1().empty() ? folder_ : error.path1(),
                      fmt::format("cannot be listed: {}", describe_errno(error.code().value())));
    }
    std::sort(names_.begin(), names_.end());
  }

  const fs::path& path() const override { return folder_; }
  std::size_t size() const override { return names_.size(); }
  const std::string& relative_name(std::size_t file) const override { return names_.at(file); }
  std::string name(std::size_t file) const override { return folder_ / names_.at(file); }
  std::vector<std::byte> read(std::size_t file, std::uint64_t limit) const override {
    return read_file(name(file), limit);
  }

 private:
  void collect() {
    for (fs::recursive_directory_iterator entry(folder_), end; entry != end; ++entry) {
      if (entry->path().filename().string().starts_with('.')) {
        entry.disable_recursion_pending();
        continue;
      }
      if (!entry->is_directory()) {
        names_.push_back(entry->path().lexically_relative(folder_).generic_string());
      } else if (entry->is_symlink()) {
        throw DataError(entry->path(),
                        "is a link to a folder, which could lead round in a circle; put the folder there");
      }
    }
  }

  fs::path folder_;
  std::vector<std::string> names_;
};

class ZipFiles : public FileSet {
 public:
  explicit ZipFiles(std::unique_ptr<ZipArchive> archive) : archive_(std::move(archive)) {}

  const fs::path& path() const override { return archive_->path(); }
  std::size_t size() const override { return archive_->members().size(); }
  const std::string& relative_name(std::size_t file) const override { return archive_->members().at(file).name; }
  std::string name(std::size_t file) const override { return archive_->name(file); }
  std::vector<std::byte> read(std::size_t file, std::uint64_t limit) const override {
    return archive_->read(file, limit);
  }

 private:
  std::unique_ptr<ZipArchive> archive_;
};

}  // namespace

std::unique_ptr<FileSet> files_in_folder(const fs::path& folder) { return std::make_unique<FolderFiles>(folder); }

std::unique_ptr<FileSet> files_in_zip(std::unique_ptr<ZipArchive> archive) {
  return std::make_unique<ZipFiles>(std::move(archive));
}

}  // namespace perrin::data
