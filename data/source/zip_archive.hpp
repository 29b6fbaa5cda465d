#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

struct zip;
struct zip_file;

namespace perrin::data {

/// One file in a zip archive.
struct ZipMember {
  std::string name;
  std::uint64_t bytes = 0;  // uncompressed
};

/// The bytes of one member, in order; its checksum is verified with the last of them.
class ZipStream {
 public:
  /// Fills `into`. @throws DataError for an early end or a wrong checksum
  void read(std::span<std::byte> into);

 private:
  friend class ZipArchive;
  struct Close {
    void operator()(zip_file* file) const noexcept;
  };
  ZipStream(std::string name, std::uint64_t bytes, std::unique_ptr<zip_file, Close> file);

  std::string name_;  // of archive and member
  std::uint64_t left_;
  std::unique_ptr<zip_file, Close> file_;
};

/// A zip archive for reading; nothing is ever unpacked to disk. For one thread at a time.
class ZipArchive {
 public:
  /// @throws DataError for a damaged archive, and for members that are encrypted, links, named like paths that lead
  ///         out of it, there twice, or larger than the archive can hold
  explicit ZipArchive(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  /// Files, sorted by name; folders are left out.
  const std::vector<ZipMember>& members() const { return members_; }
  /// "archive.zip: member".
  std::string name(std::size_t member) const;
  ZipStream open(std::size_t member) const;
  /// @throws DataError for a member of more than `limit` bytes
  std::vector<std::byte> read(std::size_t member, std::uint64_t limit) const;

 private:
  struct Discard {
    void operator()(zip* archive) const noexcept;
  };
  std::filesystem::path path_;
  std::unique_ptr<zip, Discard> archive_;
  std::vector<ZipMember> members_;
  std::vector<std::uint64_t> places_;  // of the members in the archive
};

}  // namespace perrin::data
