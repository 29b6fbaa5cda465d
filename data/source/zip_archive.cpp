#include "data/source/zip_archive.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <zip.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"

namespace perrin::data {
namespace {

/// Deflate makes nothing smaller than 1/1032 (zlib's own figure); what promises more is a bomb.
constexpr std::uint64_t kMaxDeflateRatio = 1032;

bool leads_out(const std::filesystem::path& member) {
  return member.is_absolute() || std::find(member.begin(), member.end(), "..") != member.end();
}

bool is_link(zip_t* archive, std::uint64_t place) {
  zip_uint8_t system = 0;
  zip_uint32_t attributes = 0;
  if (zip_file_get_external_attributes(archive, place, 0, &system, &attributes) != 0) return false;
  return system == ZIP_OPSYS_UNIX && S_ISLNK(attributes >> 16);
}

}  // namespace

void ZipStream::Close::operator()(zip_file* file) const noexcept { zip_fclose(file); }
void ZipArchive::Discard::operator()(zip* archive) const noexcept { zip_discard(archive); }

ZipStream::ZipStream(std::string name, std::uint64_t bytes, std::unique_ptr<zip_file, Close> file)
    : name_(std::move(name)), left_(bytes), file_(std::move(file)) {}

void ZipStream::read(std::span<std::byte> into) {
  const auto require = [this](bool whole) {
    if (!whole) {
      throw DataError(
          name_, fmt::format("is truncated or damaged ({}); copy the archive again", zip_file_strerror(file_.get())));
    }
  };
  if (into.size() > left_) throw DataError(name_, "ends early; copy the archive again");
  for (std::size_t done = 0; done < into.size();) {
    const zip_int64_t got = zip_fread(file_.get(), into.data() + done, into.size() - done);
    require(got > 0);
    done += static_cast<std::size_t>(got);
  }
  left_ -= into.size();
  if (left_ == 0) {  // libzip compares the checksum when it meets the end
    std::byte beyond{};
    require(zip_fread(file_.get(), &beyond, 1) == 0);
  }
}

ZipArchive::ZipArchive(std::filesystem::path path) : path_(std::move(path)) {
  const std::uint64_t file_bytes = File::open_for_reading(path_).size();
  int code = 0;
  archive_.reset(zip_open(path_.c_str(), ZIP_RDONLY | ZIP_CHECKCONS, &code));
  if (archive_ == nullptr) {
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string reason = zip_error_strerror(&error);
    zip_error_fini(&error);
    throw DataError(path_, fmt::format("the zip archive is truncated or damaged ({}); copy it again", reason));
  }
  const auto entries = static_cast<std::uint64_t>(zip_get_num_entries(archive_.get(), 0));
  std::vector<std::pair<ZipMember, std::uint64_t>> found;
  for (std::uint64_t place = 0; place < entries; ++place) {
    zip_stat_t status;
    if (zip_stat_index(archive_.get(), place, 0, &status) != 0 || (status.valid & ZIP_STAT_NAME) == 0 ||
        (status.valid & ZIP_STAT_SIZE) == 0) {
      throw DataError(path_, fmt::format("entry {} of the zip archive cannot be read; copy it again", place));
    }
    const std::string name = status.name;
    if (leads_out(name)) {
      throw DataError(path_, fmt::format("member {} leads out of the archive; it is not to be trusted", name));
    }
    if (is_link(archive_.get(), place))
      throw DataError(path_, fmt::format("member {} is a link, which is refused", name));
    if (name.ends_with('/')) continue;
    if ((status.valid & ZIP_STAT_ENCRYPTION_METHOD) != 0 && status.encryption_method != ZIP_EM_NONE) {
      throw DataError(path_, fmt::format("member {} is encrypted; give an archive without a password", name));
    }
    if (status.size / kMaxDeflateRatio > file_bytes) {
      throw DataError(path_, fmt::format("member {} says it has {} bytes, which cannot be in an archive of {}", name,
                                         status.size, file_bytes));
    }
    found.emplace_back(ZipMember{name, status.size}, place);
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first.name < b.first.name; });
  for (auto& [member, place] : found) {
    if (!members_.empty() && members_.back().name == member.name) {
      throw DataError(path_, fmt::format("holds {} twice; copy it again", member.name));
    }
    members_.push_back(std::move(member));
    places_.push_back(place);
  }
}

std::string ZipArchive::name(std::size_t member) const {
  return fmt::format("{}: {}", path_.string(), members_.at(member).name);
}

ZipStream ZipArchive::open(std::size_t member) const {
  std::unique_ptr<zip_file, ZipStream::Close> file(zip_fopen_index(archive_.get(), places_.at(member), 0));
  if (file == nullptr) {
    throw DataError(name(member),
                    fmt::format("cannot be read ({}); copy the archive again", zip_strerror(archive_.get())));
  }
  return {name(member), members_[member].bytes, std::move(file)};
}

std::vector<std::byte> ZipArchive::read(std::size_t member, std::uint64_t limit) const {
  const std::uint64_t bytes = members_.at(member).bytes;
  if (bytes > limit) {
    throw DataError(name(member),
                    fmt::format("has {} bytes, at most {} are read; it is not what it seems to be", bytes, limit));
  }
  std::vector<std::byte> contents(bytes);
  open(member).read(contents);
  return contents;
}

}  // namespace perrin::data
