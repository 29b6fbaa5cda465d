#include "data/source/hdf5_arrays.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/hdf5_session.hpp"
#include "data/sha256.hpp"
#include "data/shard_format.hpp"
#include "data/source/array_source.hpp"

namespace perrin::data {
namespace {

constexpr std::uint64_t kMaxUnpackedBytes = std::uint64_t{16} << 30;
constexpr std::uint64_t kSlabBytes = std::uint64_t{64} << 20;
constexpr hsize_t kMaxNames = 1000;
constexpr std::size_t kMaxNameBytes = 1024;
constexpr int kMaxRank = 8;
/// Deflate's own limit; other filters of HDF5 pack less.
constexpr std::uint64_t kMaxRatio = 1032;

/// What is learnt of the images while HDF5 is open.
struct StoredImages {
  ImageAxes axes;
  std::uint64_t offset = 0;            // in the file, where they are contiguous
  std::vector<std::uint8_t> unpacked;  // as stored, where they are not
};

class Hdf5Arrays {
 public:
  explicit Hdf5Arrays(const File& file)
      : file_(file), session_(file.path()), access_(session_.file_access()), hdf5_(open()) {}

  /// Of the datasets in the root group.
  std::vector<std::string> names() const {
    H5G_info_t group{};
    session_.require(H5Gget_info(hdf5_.get(), &group), "list the root group");
    if (group.nlinks > kMaxNames) refuse(fmt::format("has {} objects; name the file of one set", group.nlinks));
    std::vector<std::string> names;
    for (hsize_t i = 0; i < group.nlinks; ++i) {
      std::array<char, kMaxNameBytes> name{};
      const ssize_t length =
          H5Lget_name_by_idx(hdf5_.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i, name.data(), name.size(), H5P_DEFAULT);
      if (length > 0 && static_cast<std::size_t>(length) < name.size()) names.emplace_back(name.data());
    }
    return names;
  }

  StoredImages images(const std::string& name, const std::optional<Layout>& layout) const {
    const Hdf5Dataset dataset = open_dataset(name);
    const Hdf5Type type(session_.require(H5Dget_type(dataset.get()), "read the type of the images"));
    if (H5Tequal(type.get(), H5T_STD_U8LE) <= 0 && H5Tequal(type.get(), H5T_STD_U8BE) <= 0) {
      refuse(fmt::format("/{} is not of type uint8, 0 to 255; convert the images", name));
    }
    const std::vector<std::uint64_t> extents = extents_of(dataset, name);
    StoredImages images;
    images.axes = image_axes(fmt::format("{}: /{}", file_.path().string(), name), extents, layout);
    const std::uint64_t bytes = bytes_of(extents, name);
    if (is_contiguous(dataset, name)) {
      images.offset = H5Dget_offset(dataset.get());
      if (images.offset == HADDR_UNDEF) refuse(fmt::format("/{} was never written", name));
      if (bytes > file_.size() || images.offset > file_.size() - bytes) {
        refuse(fmt::format("/{} should reach beyond the {} bytes of the file; it is truncated: copy it again", name,
                           file_.size()));
      }
      return images;
    }
    if (bytes > kMaxUnpackedBytes) {
      refuse(
          fmt::format("/{} is chunked and has {} bytes, more than are unpacked into memory; run `h5repack -l CONTI "
                      "-f NONE` on the file first",
                      name, bytes));
    }
    if (bytes / kMaxRatio > file_.size())
      refuse(fmt::format("/{} cannot be in a file of {} bytes", name, file_.size()));
    images.unpacked = unpack(dataset, name, extents, bytes);
    return images;
  }

  std::vector<std::int64_t> labels(const std::string& name) const {
    const Hdf5Dataset dataset = open_dataset(name);
    const Hdf5Type type(session_.require(H5Dget_type(dataset.get()), "read the type of the labels"));
    const std::vector<std::uint64_t> extents = extents_of(dataset, name);
    if (H5Tget_class(type.get()) != H5T_INTEGER ||
        std::any_of(extents.begin() + 1, extents.end(), [](std::uint64_t extent) { return extent != 1; })) {
      refuse(
          fmt::format("/{} of shape [{}] holds no labels; they are integers [n]: for one-hot rows store their argmax",
                      name, fmt::join(extents, ", ")));
    }
    static_cast<void>(is_contiguous(dataset, name));  // refuses what takes its data from elsewhere
    if (extents[0] / kMaxRatio > file_.size())
      refuse(fmt::format("/{} cannot be in a file of {} bytes", name, file_.size()));
    std::vector<std::int64_t> labels(extents[0]);
    // HDF5 clips what does not fit, so that a label beyond 63 bits is refused as too large.
    session_.require(H5Dread(dataset.get(), H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, labels.data()),
                     fmt::format("read /{}", name));
    return labels;
  }

 private:
  [[noreturn]] void refuse(const std::string& reason) const { throw DataError(file_.path(), reason); }

  Hdf5File open() const {
    const hid_t id = H5Fopen(file_.path().c_str(), H5F_ACC_RDONLY, access_.get());
    if (id < 0) session_.fail("cannot be opened; it is truncated, unfinished or damaged: copy it again");
    return Hdf5File(id);
  }

  Hdf5Dataset open_dataset(const std::string& name) const {
    H5L_info_t link{};
    session_.require(H5Lget_info(hdf5_.get(), name.c_str(), &link, H5P_DEFAULT), fmt::format("examine /{}", name));
    if (link.type != H5L_TYPE_HARD) {
      refuse(fmt::format("/{} is a soft or external link, which could lead to any file; links are refused", name));
    }
    const Hdf5Object object(
        session_.require(H5Oopen(hdf5_.get(), name.c_str(), H5P_DEFAULT), fmt::format("open /{}", name)));
    if (H5Iget_type(object.get()) != H5I_DATASET)
      refuse(fmt::format("/{} is a group; its datasets must be in the root", name));
    return Hdf5Dataset(
        session_.require(H5Dopen2(hdf5_.get(), name.c_str(), H5P_DEFAULT), fmt::format("open /{}", name)));
  }

  std::vector<std::uint64_t> extents_of(const Hdf5Dataset& dataset, const std::string& name) const {
    const Hdf5Space space(session_.require(H5Dget_space(dataset.get()), fmt::format("read the shape of /{}", name)));
    const int rank = H5Sget_simple_extent_ndims(space.get());
    if (rank < 1 || rank > kMaxRank)
      refuse(fmt::format("/{} has {} axes, which is no array of images or labels", name, rank));
    std::array<hsize_t, kMaxRank> extents{};
    session_.require(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr), "read a shape");
    return {extents.begin(), extents.begin() + rank};
  }

  std::uint64_t bytes_of(std::span<const std::uint64_t> extents, const std::string& name) const {
    std::uint64_t bytes = 1;
    for (const std::uint64_t extent : extents) {
      if (__builtin_mul_overflow(bytes, extent, &bytes)) refuse(fmt::format("/{} has an impossible shape", name));
    }
    return bytes;
  }

  /// Refuses data that come from other files.
  bool is_contiguous(const Hdf5Dataset& dataset, const std::string& name) const {
    const Hdf5Properties creation(
        session_.require(H5Dget_create_plist(dataset.get()), fmt::format("examine /{}", name)));
    const H5D_layout_t layout = H5Pget_layout(creation.get());
    if (layout == H5D_VIRTUAL || H5Pget_external_count(creation.get()) != 0) {
      refuse(fmt::format("/{} takes its data from other files, which is refused; store them in this one", name));
    }
    return layout == H5D_CONTIGUOUS;
  }

  std::vector<std::uint8_t> unpack(const Hdf5Dataset& dataset, const std::string& name,
                                   const std::vector<std::uint64_t>& extents, std::uint64_t bytes) const {
    std::vector<std::uint8_t> all(bytes);
    const std::uint64_t image_bytes = bytes / extents[0];
    const std::uint64_t slab = std::max<std::uint64_t>(1, kSlabBytes / image_bytes);
    std::vector<hsize_t> start(extents.size(), 0);
    std::vector<hsize_t> count(extents.begin(), extents.end());
    const Hdf5Space space(session_.require(H5Dget_space(dataset.get()), "read a shape"));
    for (std::uint64_t first = 0; first < extents[0]; first += slab) {
      start[0] = first;
      count[0] = std::min(slab, extents[0] - first);
      session_.require(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr),
                       "select images");
      const Hdf5Space memory(
          session_.require(H5Screate_simple(static_cast<int>(count.size()), count.data(), nullptr), "select memory"));
      session_.require(H5Dread(dataset.get(), H5T_NATIVE_UINT8, memory.get(), space.get(), H5P_DEFAULT,
                               all.data() + first * image_bytes),
                       fmt::format("read images {} to {} of /{}", first, first + count[0] - 1, name));
    }
    return all;
  }

  const File& file_;
  Hdf5Session session_;
  Hdf5Properties access_;
  Hdf5File hdf5_;
};

class Hdf5Source : public PictureSource {
 public:
  Hdf5Source(File file, StoredImages images, std::vector<std::int32_t> labels, std::vector<std::string> class_names)
      : file_(std::move(file)),
        images_(std::move(images)),
        labels_(std::move(labels)),
        class_names_(std::move(class_names)) {
    require_names_for(file_.path(), labels_, class_names_);
  }

  std::uint64_t size() const override { return images_.axes.images; }
  std::int32_t label(std::uint64_t index) const override { return labels_.at(index); }
  std::vector<std::string> class_names() const override { return class_names_; }
  std::string name(std::uint64_t index) const override {
    return fmt::format("{}: image {}", file_.path().string(), index);
  }
  std::string kind() const override { return "hdf5"; }

  Picture read(std::uint64_t index) const override {
    const ImageShape& shape = images_.axes.shape;
    std::vector<std::uint8_t> pixels(shape.bytes());
    if (images_.unpacked.empty()) {
      file_.pread_exact(std::as_writable_bytes(std::span(pixels)), images_.offset + index * shape.bytes());
    } else {
      std::copy_n(images_.unpacked.begin() + static_cast<std::ptrdiff_t>(index * shape.bytes()), pixels.size(),
                  pixels.begin());
    }
    if (images_.axes.layout == Layout::nchw) return {shape, /*has_alpha=*/false, std::move(pixels)};
    return from_interleaved(shape, /*has_alpha=*/false, pixels.data());
  }

  std::string digest() const override {
    const ImageShape& shape = images_.axes.shape;
    Sha256 hash;
    hash.update(fmt::format("hdf5 {} {} {} {}\n", size(), shape.channels, shape.height, shape.width));
    for (std::uint64_t i = 0; i < size(); ++i) {
      const Picture picture = read(i);
      hash.update(std::as_bytes(std::span(picture.pixels)));
    }
    return hash.update(std::as_bytes(std::span(labels_))).hex();
  }

 private:
  File file_;
  StoredImages images_;
  std::vector<std::int32_t> labels_;
  std::vector<std::string> class_names_;
};

}  // namespace

std::unique_ptr<PictureSource> read_hdf5_arrays(const std::filesystem::path& path, const ArrayOptions& options,
                                                std::vector<std::string> class_names) {
  File file = File::open_for_reading(path);
  StoredImages images;
  std::vector<std::int32_t> labels;
  {
    const Hdf5Arrays arrays(file);
    const ArrayKeys keys = choose_arrays(path, arrays.names(), options);
    images = arrays.images(keys.images, options.layout);
    labels.assign(images.axes.images, kNoLabel);
    if (!keys.labels.empty()) {
      labels = checked_labels(fmt::format("{}: /{}", path.string(), keys.labels), arrays.labels(keys.labels),
                              images.axes.images);
    }
  }
  return std::make_unique<Hdf5Source>(std::move(file), std::move(images), std::move(labels), std::move(class_names));
}

}  // namespace perrin::data
