#include "data/source/tar_archive.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"

namespace perrin::data {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

struct Free {
  void operator()(archive* reader) const noexcept { archive_read_free(reader); }
};

class TarReader {
 public:
  explicit TarReader(const fs::path& path)
      : path_(path), file_(File::open_for_reading(path)), reader_(archive_read_new()) {
    if (reader_ == nullptr) throw std::bad_alloc();
    require(archive_read_support_format_tar(reader_.get()));
    require(archive_read_support_filter_gzip(reader_.get()));
    require(archive_read_open_fd(reader_.get(), file_.descriptor(), kBlockBytes));
  }

  /// The next header; null at the end.
  archive_entry* next() {
    archive_entry* entry = nullptr;
    const int status = archive_read_next_header(reader_.get(), &entry);
    if (status == ARCHIVE_EOF) return nullptr;
    require(status);
    return entry;
  }

  std::vector<std::byte> contents(archive_entry* entry, const std::string& name, std::uint64_t limit) {
    const auto announced = static_cast<std::uint64_t>(std::max<la_int64_t>(0, archive_entry_size(entry)));
    if (announced > limit) {
      throw DataError(path_,
                      fmt::format("{} has {} bytes, at most {} are believed; it is not the member it seems to be", name,
                                  announced, limit));
    }
    // The announced size is allocated as it fills, so that a header alone costs nothing.
    std::vector<std::byte> bytes;
    while (bytes.size() < announced) {
      const std::size_t done = bytes.size();
      bytes.resize(std::min<std::uint64_t>(announced, done + kBlockBytes));
      const la_ssize_t got = archive_read_data(reader_.get(), bytes.data() + done, bytes.size() - done);
      if (got <= 0) refuse(archive_error_string(reader_.get()));
      bytes.resize(done + static_cast<std::size_t>(got));
    }
    return bytes;
  }

 private:
  void require(int status) const {
    if (status != ARCHIVE_OK) refuse(archive_error_string(reader_.get()));
  }
  [[noreturn]] void refuse(const char* reason) const {
    throw DataError(path_, fmt::format("the tar archive of {} bytes is truncated or damaged ({}); download it again",
                                       file_.size(), reason == nullptr ? "it ends early" : reason));
  }

  const fs::path& path_;
  File file_;
  std::unique_ptr<archive, Free> reader_;
};

void refuse_escape(const fs::path& archive_path, const fs::path& member) {
  if (member.is_absolute() || std::find(member.begin(), member.end(), "..") != member.end()) {
    throw DataError(archive_path,
                    fmt::format("member {} leads out of the archive; it is not to be trusted", member.string()));
  }
}

}  // namespace

NamedBytes read_tar_members(const fs::path& path, const std::function<bool(std::string_view)>& wanted,
                            std::uint64_t limit) {
  TarReader reader(path);
  NamedBytes members;
  while (archive_entry* entry = reader.next()) {
    const char* pathname = archive_entry_pathname(entry);
    if (pathname == nullptr) throw DataError(path, "has a member whose name cannot be read; download it again");
    const fs::path member = pathname;
    refuse_escape(path, member);
    const std::string name = member.filename();
    if (!wanted(name)) continue;
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) != nullptr) {
      throw DataError(path, fmt::format("member {} is a link or no plain file, which is refused", member.string()));
    }
    if (members.contains(name)) throw DataError(path, fmt::format("holds {} twice; give an archive of one set", name));
    members.emplace(name, reader.contents(entry, member.string(), limit));
  }
  return members;
}

}  // namespace perrin::data
