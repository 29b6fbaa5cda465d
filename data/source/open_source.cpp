#include "data/source/open_source.hpp"

#include <fmt/format.h>
#include <fnmatch.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/manifest.hpp"
#include "data/source/dataset_source.hpp"
#include "data/source/decode.hpp"
#include "data/source/hdf5_arrays.hpp"
#include "data/source/idx.hpp"
#include "data/source/image_files.hpp"
#include "data/source/npz.hpp"
#include "data/source/zip_archive.hpp"

namespace perrin::data {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kHint =
    "give a folder or zip archive of PNG or JPEG images, an .npz archive, HDF5 files, CIFAR's binary version, MNIST's "
    "four files, or an IDX file with --labels";

constexpr std::string_view kHdf5Magic("\x89HDF\r\n\x1a\n", 8);
constexpr std::size_t kTarMagicAt = 257;
constexpr std::size_t kHeadBytes = 512;

bool has_hdf5_ending(const fs::path& path) {
  return path.extension() == ".h5" || path.extension() == ".hdf5" || path.extension() == ".hdf";
}

bool is_pattern(const fs::path& path) {
  return !fs::exists(path) && path.filename().string().find_first_of("*?[") != std::string::npos;
}

/// The HDF5 files of a folder, or those that match a pattern, by name; hidden ones are left out.
std::vector<fs::path> hdf5_files_of(const fs::path& path) {
  const bool pattern = is_pattern(path);
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(pattern ? parent : path)) {
    const std::string name = entry.path().filename();
    const bool wanted = pattern ? ::fnmatch(path.filename().c_str(), name.c_str(), FNM_PERIOD) == 0
                                : has_hdf5_ending(name) && !name.starts_with('.');
    if (wanted) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) throw DataError(path, "matches no file; check the pattern, and quote it where the shell reads it");
  return files;
}

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

SourceKind kind_of_file(const fs::path& path) {
  const std::string head = head_of(path);
  const std::string_view view = head;
  if (view.size() > kTarMagicAt && view.substr(kTarMagicAt).starts_with("ustar")) return SourceKind::tar;
  if (view.starts_with(std::string_view("\0\0", 2)) && view.size() > 3 && (view[3] == 3 || view[3] == 1))
    return SourceKind::idx;
  if (view.starts_with(kHdf5Magic)) {
    std::array<std::byte, kHdf5Magic.size()> start{};
    File::open_for_reading(path).pread_exact(start, 0);
    if (std::memcmp(start.data(), kHdf5Magic.data(), start.size()) != 0)
      throw DataError(path, "is a compressed HDF5 file, whose images must be read in any order; gunzip it first");
    return SourceKind::hdf5;
  }
  if (view.starts_with("PK\x03\x04") || view.starts_with("PK\x05\x06")) return SourceKind::zip;
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
  if (path.extension() == ".bin") return SourceKind::cifar_file;
  throw DataError(path, fmt::format("is not recognised; {}", kHint));
}

SourceKind kind_of_folder(const fs::path& path) {
  if (is_dataset(path)) return SourceKind::dataset;
  bool has_hdf5 = false, has_others = false;  // folders of classes, or pictures
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename();
    if (is_cifar_member(name)) return SourceKind::cifar_folder;
    if (is_idx_member(name)) return SourceKind::idx_folder;
    has_hdf5 = has_hdf5 || (has_hdf5_ending(name) && !name.starts_with('.'));
    has_others = has_others || entry.is_directory() || has_picture_ending(name);
  }
  if (has_hdf5 && !has_others) return SourceKind::hdf5_files;
  if (fs::exists(path / "data_batch_1") || fs::exists(path / "batches.meta")) {
    throw DataError(path,
                    "is the Python version of CIFAR, pickles, which can run any code when they are opened, and "
                    "is refused; give the binary version from https://www.cs.toronto.edu/~kriz/cifar.html");
  }
  return SourceKind::image_folder;
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

SourceKind recognise_source(const fs::path& path) {
  if (is_pattern(path)) {
    for (const fs::path& file : hdf5_files_of(path)) {
      if (kind_of_file(file) != SourceKind::hdf5)
        throw DataError(file, "is no HDF5 file, and only those are taken by a pattern; give its folder or archive");
    }
    return SourceKind::hdf5_files;
  }
  return fs::is_directory(path) ? kind_of_folder(path) : kind_of_file(path);
}

std::unique_ptr<PictureSource> open_source(const fs::path& path, const SourceOptions& options) {
  const SourceKind kind = recognise_source(path);
  const bool is_cifar = kind == SourceKind::tar || kind == SourceKind::cifar_folder || kind == SourceKind::cifar_file;
  const bool is_divided = (is_cifar && kind != SourceKind::cifar_file) || kind == SourceKind::idx_folder;
  const bool is_hdf5 = kind == SourceKind::hdf5 || kind == SourceKind::hdf5_files;
  refuse_unless(is_divided, options.subset.has_value(), path, "--subset (or --held-out test)",
                "CIFAR and the four files of MNIST's family");
  refuse_unless(is_cifar, options.cifar_labels.has_value(), path, "--cifar-labels", "CIFAR-100");
  refuse_unless(kind == SourceKind::idx || kind == SourceKind::hdf5, !options.labels.empty(), path, "--labels",
                "IDX and HDF5 files");
  refuse_unless(!is_cifar && kind != SourceKind::dataset, !options.class_names.empty(), path, "--class-names",
                "sources that name no classes");
  if (kind != SourceKind::zip && !is_hdf5) refuse_array_options(path, options.arrays);
  const Subset subset = options.subset.value_or(Subset::train);
  const CifarLabels cifar_labels = options.cifar_labels.value_or(CifarLabels::fine);
  switch (kind) {
    case SourceKind::idx:
      if (options.labels.empty())
        throw DataError(path, "is an IDX file of images; name that of their labels with --labels");
      return read_idx_pair(path, options.labels, options.class_names);
    case SourceKind::idx_folder:
      return read_idx_folder(path, subset, options.class_names);
    case SourceKind::tar:
    case SourceKind::cifar_folder:
      return read_cifar(path, subset, cifar_labels);
    case SourceKind::cifar_file:
      return read_cifar_file(path, cifar_labels);
    case SourceKind::zip:
      return open_zip(path, options);
    case SourceKind::hdf5:
      if (!options.labels.empty()) return read_hdf5_pair(path, options.labels, options.arrays, options.class_names);
      return read_hdf5_arrays(std::vector{path}, options.arrays, options.class_names);
    case SourceKind::hdf5_files:
      return read_hdf5_arrays(hdf5_files_of(path), options.arrays, options.class_names);
    case SourceKind::dataset:
      return std::make_unique<DatasetSource>(path);
    case SourceKind::image_folder:
      return std::make_unique<ImageFiles>(files_in_folder(path), options.class_names);
  }
  throw std::logic_error("open_source: unknown kind");
}

}  // namespace perrin::data
