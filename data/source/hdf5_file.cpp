#include "data/source/hdf5_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include "data/data_error.hpp"
#include "data/file.hpp"

namespace perrin::data {
namespace {

/// Held in memory at a time, where one row of chunks is not more.
constexpr std::uint64_t kBlockBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kMaxBlockBytes = std::uint64_t{1} << 30;
constexpr hsize_t kMaxNames = 1000;
constexpr std::size_t kMaxNameBytes = 1024;
constexpr int kMaxRank = 8;
/// Deflate's own limit; other filters of HDF5 pack less.
constexpr std::uint64_t kMaxRatio = 1032;

}  // namespace

Hdf5Arrays::Hdf5Arrays(const std::filesystem::path& file)
    : path_(file), file_bytes_(File::open_for_reading(file).size()), session_(file), hdf5_(open()) {}

std::vector<std::string> Hdf5Arrays::names() const {
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

StoredImages Hdf5Arrays::images(const std::string& name, const std::optional<Layout>& layout) const {
  const Hdf5Dataset dataset = open_dataset(name);
  const Hdf5Type type(session_.require(H5Dget_type(dataset.get()), "read the type of the images"));
  if (H5Tequal(type.get(), H5T_STD_U8LE) <= 0 && H5Tequal(type.get(), H5T_STD_U8BE) <= 0) {
    refuse(fmt::format("/{} is not of type uint8, 0 to 255; convert the images", name));
  }
  StoredImages images{.name = name, .extents = extents_of(dataset, name)};
  images.axes = image_axes(fmt::format("{}: /{}", path_.string(), name), images.extents, layout);
  const std::uint64_t bytes = bytes_of(images.extents, name);
  const Hdf5Properties creation = creation_of(dataset, name);
  if (H5Pget_layout(creation.get()) != H5D_CONTIGUOUS) {
    if (bytes / kMaxRatio > file_bytes_) refuse(fmt::format("/{} cannot be in a file of {} bytes", name, file_bytes_));
    images.block_images = block_images(creation, images);
    return images;
  }
  images.offset = H5Dget_offset(dataset.get());
  if (*images.offset == HADDR_UNDEF) refuse(fmt::format("/{} was never written", name));
  if (bytes > file_bytes_ || *images.offset > file_bytes_ - bytes) {
    refuse(fmt::format("/{} should reach beyond the {} bytes of the file; it is truncated: copy it again", name,
                       file_bytes_));
  }
  return images;
}

std::vector<std::int64_t> Hdf5Arrays::labels(const std::string& name) const {
  const Hdf5Dataset dataset = open_dataset(name);
  const Hdf5Type type(session_.require(H5Dget_type(dataset.get()), "read the type of the labels"));
  const std::vector<std::uint64_t> extents = extents_of(dataset, name);
  if (H5Tget_class(type.get()) != H5T_INTEGER ||
      std::any_of(extents.begin() + 1, extents.end(), [](std::uint64_t extent) { return extent != 1; })) {
    refuse(fmt::format("/{} of shape [{}] holds no labels; they are integers [n]: for one-hot rows store their argmax",
                       name, fmt::join(extents, ", ")));
  }
  static_cast<void>(creation_of(dataset, name));  // refuses what takes its data from elsewhere
  if (extents[0] / kMaxRatio > file_bytes_)
    refuse(fmt::format("/{} cannot be in a file of {} bytes", name, file_bytes_));
  std::vector<std::int64_t> labels(extents[0]);
  // HDF5 clips what does not fit, so that a label beyond 63 bits is refused as too large.
  session_.require(H5Dread(dataset.get(), H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, labels.data()),
                   fmt::format("read /{}", name));
  return labels;
}

void Hdf5Arrays::read(const StoredImages& images, std::uint64_t first, std::uint64_t count,
                      std::span<std::uint8_t> pixels) const {
  const Hdf5Dataset dataset = open_dataset(images.name);
  if (extents_of(dataset, images.name) != images.extents || pixels.size() != count * images.axes.shape.bytes())
    refuse(fmt::format("/{} has changed while it was read; start again when nobody writes it", images.name));
  std::vector<hsize_t> start(images.extents.size(), 0), extents(images.extents.begin(), images.extents.end());
  start[0] = first;
  extents[0] = count;
  const Hdf5Space space(session_.require(H5Dget_space(dataset.get()), "read a shape"));
  session_.require(H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, extents.data(), nullptr),
                   "select images");
  const Hdf5Space memory(
      session_.require(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr), "select memory"));
  session_.require(H5Dread(dataset.get(), H5T_NATIVE_UINT8, memory.get(), space.get(), H5P_DEFAULT, pixels.data()),
                   fmt::format("read images {} to {} of /{}", first, first + count - 1, images.name));
}

void Hdf5Arrays::refuse(const std::string& reason) const { throw DataError(path_, reason); }

Hdf5File Hdf5Arrays::open() const {
  const Hdf5Properties access = session_.file_access();
  const hid_t id = H5Fopen(path_.c_str(), H5F_ACC_RDONLY, access.get());
  if (id < 0) session_.fail("cannot be opened; it is truncated, unfinished or damaged: copy it again");
  return Hdf5File(id);
}

Hdf5Dataset Hdf5Arrays::open_dataset(const std::string& name) const {
  H5L_info_t link{};
  session_.require(H5Lget_info(hdf5_.get(), name.c_str(), &link, H5P_DEFAULT), fmt::format("examine /{}", name));
  if (link.type != H5L_TYPE_HARD) {
    refuse(fmt::format("/{} is a soft or external link, which could lead to any file; links are refused", name));
  }
  const Hdf5Object object(
      session_.require(H5Oopen(hdf5_.get(), name.c_str(), H5P_DEFAULT), fmt::format("open /{}", name)));
  if (H5Iget_type(object.get()) != H5I_DATASET)
    refuse(fmt::format("/{} is a group; its datasets must be in the root", name));
  return Hdf5Dataset(session_.require(H5Dopen2(hdf5_.get(), name.c_str(), H5P_DEFAULT), fmt::format("open /{}", name)));
}

std::vector<std::uint64_t> Hdf5Arrays::extents_of(const Hdf5Dataset& dataset, const std::string& name) const {
  const Hdf5Space space(session_.require(H5Dget_space(dataset.get()), fmt::format("read the shape of /{}", name)));
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank < 1 || rank > kMaxRank)
    refuse(fmt::format("/{} has {} axes, which is no array of images or labels", name, rank));
  std::array<hsize_t, kMaxRank> extents{};
  session_.require(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr), "read a shape");
  return {extents.begin(), extents.begin() + rank};
}

std::uint64_t Hdf5Arrays::bytes_of(std::span<const std::uint64_t> extents, const std::string& name) const {
  std::uint64_t bytes = 1;
  for (const std::uint64_t extent : extents) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) refuse(fmt::format("/{} has an impossible shape", name));
  }
  return bytes;
}

/// Refuses data that come from other files.
Hdf5Properties Hdf5Arrays::creation_of(const Hdf5Dataset& dataset, const std::string& name) const {
  Hdf5Properties creation(session_.require(H5Dget_create_plist(dataset.get()), fmt::format("examine /{}", name)));
  if (H5Pget_layout(creation.get()) == H5D_VIRTUAL || H5Pget_external_count(creation.get()) != 0) {
    refuse(fmt::format("/{} takes its data from other files, which is refused; store them in this one", name));
  }
  return creation;
}

/// Whole chunks, so that none is unpacked twice while images are read in order.
std::uint64_t Hdf5Arrays::block_images(const Hdf5Properties& creation, const StoredImages& images) const {
  const std::uint64_t image_bytes = images.axes.shape.bytes();
  std::uint64_t chunk_images = 1;
  if (H5Pget_layout(creation.get()) == H5D_CHUNKED) {
    std::array<hsize_t, kMaxRank> chunk{};
    session_.require(H5Pget_chunk(creation.get(), kMaxRank, chunk.data()), "read the shape of chunks");
    chunk_images = std::clamp<std::uint64_t>(chunk[0], 1, images.axes.images);
  }
  if (chunk_images > kMaxBlockBytes / image_bytes) {
    refuse(
        fmt::format("/{} has chunks of {} images, which take more than 1 GiB to unpack; run `h5repack -l CONTI -f "
                    "NONE` on the file first",
                    images.name, chunk_images));
  }
  return std::max<std::uint64_t>(1, kBlockBytes / (chunk_images * image_bytes)) * chunk_images;
}

}  // namespace perrin::data
