#include "data/source/idx.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"

namespace perrin::data {
namespace {

constexpr std::uint8_t kUnsignedByte = 0x08;  // the IDX code of the element type
/// How the names of MNIST's four files start: images and labels to train with, and to test.
constexpr std::array<std::string_view, 4> kMembers{"train-images", "train-labels", "t10k-images", "t10k-labels"};
constexpr std::size_t kMagicBytes = 4;
constexpr std::size_t kExtentBytes = 4;
constexpr unsigned kGzipBlockBytes = 1 << 20;
/// Deflate makes nothing smaller than 1/1032 (zlib's own figure), so a header that promises more is lying.
constexpr std::uint64_t kMaxDeflateRatio = 1032;

/// Reads plain and gzip files alike: zlib passes what does not start with gzip's magic number through as it is.
class MaybeGzip {
 public:
  explicit MaybeGzip(const std::filesystem::path& path) : path_(path) {
    const File file = File::open_for_reading(path);
    file_bytes_ = file.size();
    const int duplicate = ::fcntl(file.descriptor(), F_DUPFD_CLOEXEC, 0);  // gzclose() closes its own
    if (duplicate < 0) throw DataError(path, fmt::format("cannot open: {}", describe_errno(errno)));
    stream_.reset(gzdopen(duplicate, "rb"));
    if (stream_ == nullptr) {
      ::close(duplicate);
      throw std::bad_alloc();
    }
    gzbuffer(stream_.get(), kGzipBlockBytes);
  }

  /// @return bytes delivered, fewer than wanted only at the end
  std::size_t read(std::span<std::uint8_t> into) {
    std::size_t done = 0;
    while (done < into.size()) {
      const auto wanted = static_cast<unsigned>(std::min<std::size_t>(into.size() - done, kGzipBlockBytes));
      const int got = gzread(stream_.get(), into.data() + done, wanted);
      if (got < 0) refuse_archive();
      if (got == 0) {
        int error = Z_OK;
        gzerror(stream_.get(), &error);
        if (error != Z_OK) refuse_archive();
        break;
      }
      done += static_cast<std::size_t>(got);
    }
    return done;
  }

  /// The most bytes that may come out.
  std::uint64_t limit() const { return gzdirect(stream_.get()) != 0 ? file_bytes_ : file_bytes_ * kMaxDeflateRatio; }

 private:
  [[noreturn]] void refuse_archive() const {
    int error = Z_OK;
    const std::string reason = gzerror(stream_.get(), &error);
    throw DataError(path_, fmt::format("the gzip archive of {} bytes is truncated or damaged ({}); download it again",
                                       file_bytes_, reason));
  }

  struct Close {
    void operator()(gzFile_s* stream) const noexcept { gzclose(stream); }
  };
  const std::filesystem::path& path_;
  std::uint64_t file_bytes_ = 0;
  std::unique_ptr<gzFile_s, Close> stream_;
};

struct Idx {
  std::vector<std::uint64_t> extents;
  std::vector<std::uint8_t> elements;
};

std::uint64_t big_endian(std::span<const std::uint8_t> bytes) {
  std::uint64_t value = 0;
  for (const std::uint8_t byte : bytes) value = value << 8 | byte;
  return value;
}

Idx read_idx(const std::filesystem::path& path, std::size_t rank, std::string_view what) {
  MaybeGzip stream(path);
  std::vector<std::uint8_t> header(kMagicBytes + rank * kExtentBytes);
  if (stream.read(header) != header.size()) {
    throw DataError(path, fmt::format("is too short for the header of an IDX file of {}; download it again", what));
  }
  if (header[0] != 0 || header[1] != 0) {
    throw DataError(path, 0,
                    fmt::format("is not an IDX file (it starts {:02x} {:02x}, not 00 00)", header[0], header[1]));
  }
  if (header[2] != kUnsignedByte) {
    throw DataError(
        path, 2, fmt::format("has elements of IDX type 0x{:02x}; {} must be unsigned bytes (0x08)", header[2], what));
  }
  if (header[3] != rank) {
    throw DataError(
        path, 3, fmt::format("has {} dimensions; {} have {} (are images and labels swapped?)", header[3], what, rank));
  }

  Idx idx;
  std::uint64_t bytes = 1;
  bool fits = true;
  for (std::size_t i = 0; i < rank; ++i) {
    idx.extents.push_back(big_endian(std::span(header).subspan(kMagicBytes + i * kExtentBytes, kExtentBytes)));
    fits = fits && idx.extents.back() > 0 && !__builtin_mul_overflow(bytes, idx.extents.back(), &bytes);
  }
  if (!fits || bytes > stream.limit()) {
    throw DataError(path, kMagicBytes,
                    fmt::format("the header says [{}], which cannot be in this file; it is truncated or "
                                "damaged: download it again",
                                fmt::join(idx.extents, ", ")));
  }
  idx.elements.resize(bytes);
  if (const std::size_t got = stream.read(idx.elements); got != bytes) {
    throw DataError(
        path, fmt::format("holds {} of the {} bytes its header says; it is truncated: download it again", got, bytes));
  }
  std::array<std::uint8_t, 1> beyond{};
  if (stream.read(beyond) != 0) {
    throw DataError(path,
                    fmt::format("goes on after the {} bytes its header says; it is damaged: download it again", bytes));
  }
  return idx;
}

/// The one file of a folder whose name starts so.
std::filesystem::path member_of(const std::filesystem::path& folder, std::string_view start) {
  std::vector<std::filesystem::path> plain, packed;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!entry.path().filename().string().starts_with(start)) continue;
    (entry.path().extension() == ".gz" ? packed : plain).push_back(entry.path());
  }
  const auto& found = plain.empty() ? packed : plain;
  if (found.empty()) throw DataError(folder, fmt::format("has no file {}*; download all four files of the set", start));
  if (found.size() > 1)
    throw DataError(folder, fmt::format("has {} files {}*; name two with --images and --labels", found.size(), start));
  return found.front();
}

}  // namespace

bool is_idx_member(std::string_view name) {
  return std::any_of(kMembers.begin(), kMembers.end(), [&](std::string_view start) { return name.starts_with(start); });
}

std::unique_ptr<ArraySource> read_idx_folder(const std::filesystem::path& folder, Subset subset,
                                             std::vector<std::string> class_names) {
  const std::size_t first = subset == Subset::train ? 0 : 2;
  return read_idx_pair(member_of(folder, kMembers[first]), member_of(folder, kMembers[first + 1]),
                       std::move(class_names));
}

std::unique_ptr<ArraySource> read_idx_pair(const std::filesystem::path& images, const std::filesystem::path& labels,
                                           std::vector<std::string> class_names) {
  Idx image_file = read_idx(images, 3, "images");
  const auto& extents = image_file.extents;
  if (!is_plausible(1, extents[1], extents[2])) {
    throw DataError(images, fmt::format("has implausible images of {} x {}", extents[1], extents[2]));
  }
  const std::vector<std::uint8_t> label_bytes = read_idx(labels, 1, "labels").elements;
  if (label_bytes.size() != extents[0]) {
    throw DataError(labels, fmt::format("has {} labels for the {} images in {}; give the two files of one set",
                                        label_bytes.size(), extents[0], images.string()));
  }
  Sha256 contents;
  contents.update(fmt::format("idx {} {} {}\n", extents[0], extents[1], extents[2]));
  contents.update(std::as_bytes(std::span(image_file.elements))).update(std::as_bytes(std::span(label_bytes)));
  std::vector<std::int32_t> label_numbers(label_bytes.begin(), label_bytes.end());
  require_names_for(labels, label_numbers, class_names);
  const ImageShape shape{1, static_cast<std::uint32_t>(extents[1]), static_cast<std::uint32_t>(extents[2])};
  return std::make_unique<ArraySource>(ImageArray{"idx", images, shape, std::move(image_file.elements),
                                                  std::move(label_numbers), std::move(class_names), contents.hex()});
}

}  // namespace perrin::data
