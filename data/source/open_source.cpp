#include "data/source/open_source.hpp"

#include <fmt/format.h>
#include <zlib.h>

#include <stdexcept>
#include <string_view>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/source/hdf5_arrays.hpp"
#include "data/source/idx.hpp"
#include "data/source/image_files.hpp"
#include "data/source/npz.hpp"
#include "data/source/zip_archive.hpp"

namespace perrin::data {
namespace {

namespace fs = std::filesystem;

enum class Kind { idx, tar, cifar_file, cifar_folder, zip, image_folder, hdf5 };

constexpr std::string_view kHint =
    "give a folder or zip archive of PNG or JPEG images, an .npz archive, an HDF5 file, CIFAR's binary version, or an "
    "IDX file with "
    "--labels";

constexpr std::size_t kTarMagicAt = 257;
constexpr std::size_t kHeadBytes = 512;

/// The first bytes of a file, uncompressed if it is a gzip archive.
std::string head_of(const fs::path& path) {
  static_cast<void>(File::open_for_reading(path));  // its errors say more than zlib's
  gzFile stream = gzopen(path.c_str(), "rb");
  if (stream == nullptr) throw DataError(path, "cannot be opened");
  std::string head(kHeadBytes, '\0');
  const int got = gzread(stream, head.data(), static_cast<unsigned>(head.size()));
  gzclose(stream);
  if (got < 0) throw DataError(path, "is a truncated or damaged gzip archive; download it again");
  head.resize(static_cast<std::size_t>(got));
  return head;
}

bool is_pickle(std::string_view head) { return head.size() > 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5; }

Kind kind_of_file(const fs::path& path) {
  const std::string head = head_of(path);
  const std::string_view view = head;
  if (view.size() > kTarMagicAt && view.substr(kTarMagicAt).starts_with("ustar")) return Kind::tar;
  if (view.starts_with(std::string_view("\0\0", 2)) && view.size() > 3 && (view[3] == 3 || view[3] == 1))
    return Kind::idx;
  if (view.starts_with("\x89HDF\r\n\x1a\n")) return Kind::hdf5;
  if (view.starts_with("PK\x03\x04") || view.starts_with("PK\x05\x06")) return Kind::zip;
  if (view.starts_with("\x89PNG") || view.starts_with("\xff\xd8\xff")) {
    throw DataError(path, "is one image; give the folder or the archive of all of them");
  }
  if (view.starts_with("\x93NUMPY")) {
    throw DataError(path, "is one array; give images and labels together: numpy.savez(FILE, images=..., labels=...)");
  }
  if (is_pickle(view)) {
    throw DataError(path,
                    "is a Python pickle, which can run any code when it is opened, and is refused; give CIFAR's "
                    "binary version, or save the arrays with numpy.savez");
  }
  if (path.extension() == ".bin") return Kind::cifar_file;
  throw DataError(path, fmt::format("is not recognised; {}", kHint));
}

Kind kind_of_folder(const fs::path& path) {
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    if (is_cifar_member(entry.path().filename().string())) return Kind::cifar_folder;
  }
  if (fs::exists(path / "data_batch_1") || fs::exists(path / "batches.meta")) {
    throw DataError(path,
                    "is the Python version of CIFAR, pickles, which can run any code when they are opened, and "
                    "is refused; give the binary version from https://www.cs.toronto.edu/~kriz/cifar.html");
  }
  return Kind::image_folder;
}

void refuse_unless(bool allowed, bool given, const fs::path& path, std::string_view option, std::string_view use) {
  if (given && !allowed)
    throw DataError(path, fmt::format("{} is for {}, which this is not; leave it out", option, use));
}

void refuse_array_options(const fs::path& path, const ArrayOptions& arrays) {
  const bool given = !arrays.images_key.empty() || !arrays.labels_key.empty() || arrays.layout.has_value();
  refuse_unless(false, given, path, "--images-key, --labels-key and --layout", "files of named arrays");
}

std::unique_ptr<PictureSource> open_zip(const fs::path& path, const SourceOptions& options) {
  auto archive = std::make_unique<ZipArchive>(path);
  if (is_npz(*archive)) return read_npz(*archive, options.arrays, options.class_names);
  refuse_array_options(path, options.arrays);
  return std::make_unique<ImageFiles>(files_in_zip(std::move(archive)), options.class_names);
}

}  // namespace

std::unique_ptr<PictureSource> open_source(const fs::path& path, const SourceOptions& options) {
  const Kind kind = fs::is_directory(path) ? kind_of_folder(path) : kind_of_file(path);
  const bool is_divided = kind == Kind::tar || kind == Kind::cifar_folder;
  const bool is_cifar = is_divided || kind == Kind::cifar_file;
  refuse_unless(is_divided, options.subset.has_value(), path, "--subset", "folders and archives of CIFAR");
  refuse_unless(is_cifar, options.cifar_labels.has_value(), path, "--cifar-labels", "CIFAR-100");
  refuse_unless(kind == Kind::idx, !options.labels.empty(), path, "--labels", "IDX files");
  refuse_unless(!is_cifar, !options.class_names.empty(), path, "--class-names", "sources that name no classes");
  if (kind != Kind::zip && kind != Kind::hdf5) refuse_array_options(path, options.arrays);
  const Subset subset = options.subset.value_or(Subset::train);
  const CifarLabels cifar_labels = options.cifar_labels.value_or(CifarLabels::fine);
  switch (kind) {
    case Kind::idx:
      if (options.labels.empty())
        throw DataError(path, "is an IDX file of images; name that of their labels with --labels");
      return read_idx_pair(path, options.labels, options.class_names);
    case Kind::tar:
    case Kind::cifar_folder:
      return read_cifar(path, subset, cifar_labels);
    case Kind::cifar_file:
      return read_cifar_file(path, cifar_labels);
    case Kind::zip:
      return open_zip(path, options);
    case Kind::hdf5:
      return read_hdf5_arrays(path, options.arrays, options.class_names);
    case Kind::image_folder:
      return std::make_unique<ImageFiles>(files_in_folder(path), options.class_names);
  }
  throw std::logic_error("open_source: unknown kind");
}

}  // namespace perrin::data
