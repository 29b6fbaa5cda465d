#include "data/shard_writer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <string_view>

#include "data/crc32c.hpp"
#include "data/hdf5_session.hpp"

namespace perrin::data {
namespace {

constexpr std::uint64_t kAlignedFromBytes = 4096;

class ShardCreator {
 public:
  ShardCreator(const std::filesystem::path& path, const ShardLayout& layout)
      : session_(path), hdf5_(create(path, layout.images * layout.shape.bytes())) {}

  void write_attributes(const ShardAttributes& attributes) const {
    const hid_t root = hdf5_.get();
    write_text(root, "format", kShardFormat);
    write_number(root, "format_version", H5T_STD_U32LE, kFormatVersion);
    write_text(root, "layout", kLayout);
    write_text(root, "value_range", kValueRange);
    write_text(root, "dataset_uuid", attributes.dataset_uuid);
    write_number(root, "shard_index", H5T_STD_U64LE, attributes.shard_index);
    write_number(root, "num_shards", H5T_STD_U64LE, attributes.num_shards);
    if (!attributes.class_names.empty()) write_texts(root, "class_names", attributes.class_names);
    write_text(root, "converter", attributes.converter);
    write_text(root, "transform", attributes.transform);
    write_number(root, "shuffle_seed", H5T_STD_U64LE, attributes.shuffle_seed);
  }

  /// @return the offset of the new dataset's bytes
  std::uint64_t add_dataset(const char* name, hid_t type, std::span<const hsize_t> extents,
                            const std::uint32_t* checksum = nullptr) const {
    const Hdf5Properties creation(session_.require(H5Pcreate(H5P_DATASET_CREATE), "make HDF5 properties"));
    session_.require(H5Pset_layout(creation.get(), H5D_CONTIGUOUS), "choose the layout");
    // Early: the place in the file is known at once. No fill: every byte is written below. No times: equal input
    // gives equal files, byte by byte.
    session_.require(H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY), "choose when space is taken");
    session_.require(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER), "switch fill values off");
    session_.require(H5Pset_obj_track_times(creation.get(), false), "switch time stamps off");
    const Hdf5Space space(session_.require(H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr),
                                           "make a data space"));
    const Hdf5Dataset dataset(
        session_.require(H5Dcreate2(hdf5_.get(), name, type, space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
                         fmt::format("create /{}", name)));
    if (checksum != nullptr) write_number(dataset.get(), "crc32c", H5T_STD_U32LE, *checksum);
    const haddr_t offset = H5Dget_offset(dataset.get());
    if (offset == HADDR_UNDEF) session_.fail(fmt::format("HDF5 gave /{} no place in the file", name));
    return offset;
  }

  void close() { session_.require(hdf5_.close(), "close the new file"); }

 private:
  Hdf5File create(const std::filesystem::path& path, std::uint64_t images_bytes) const {
    const Hdf5Properties access = session_.file_access();
    // What is as large as /images is aligned, and that is /images alone: the tables are smaller. HDF5's own blocks of
    // 2 KiB must not be: that would make 12 MiB of a shard of one pixel.
    const std::uint64_t aligned_from = std::clamp(images_bytes, kAlignedFromBytes, kImageAlignmentBytes);
    session_.require(H5Pset_alignment(access.get(), aligned_from, kImageAlignmentBytes), "choose the alignment");
    session_.require(H5Pset_small_data_block_size(access.get(), 0), "choose the alignment of small data");
    return Hdf5File(session_.require(H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access.get()),
                                     "create this file; is the folder writable, and the name free?"));
  }

  void write_attribute(hid_t object, const char* name, hid_t stored, hid_t native, const Hdf5Space& space,
                       const void* value) const {
    const Hdf5Attribute attribute(
        session_.require(H5Acreate2(object, name, stored, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                         fmt::format("create attribute '{}'", name)));
    session_.require(H5Awrite(attribute.get(), native, value), fmt::format("write attribute '{}'", name));
  }

  void write_number(hid_t object, const char* name, hid_t stored, std::uint64_t value) const {
    const Hdf5Space scalar(session_.require(H5Screate(H5S_SCALAR), "make a data space"));
    write_attribute(object, name, stored, H5T_NATIVE_UINT64, scalar, &value);
  }

  Hdf5Type fixed_text(std::size_t length) const {
    Hdf5Type type(session_.require(H5Tcopy(H5T_C_S1), "make a text type"));
    session_.require(H5Tset_size(type.get(), std::max<std::size_t>(length, 1)), "make a text type");
    session_.require(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), "make a text type");
    session_.require(H5Tset_cset(type.get(), H5T_CSET_UTF8), "make a text type");
    return type;
  }

  void write_text(hid_t object, const char* name, std::string_view text) const {
    const Hdf5Space scalar(session_.require(H5Screate(H5S_SCALAR), "make a data space"));
    const Hdf5Type type = fixed_text(text.size());
    const std::string padded(text.empty() ? std::string_view("\0", 1) : text);
    write_attribute(object, name, type.get(), type.get(), scalar, padded.data());
  }

  void write_texts(hid_t object, const char* name, std::span<const std::string> texts) const {
    std::size_t length = 1;
    for (const std::string& text : texts) length = std::max(length, text.size());
    std::string padded;
    for (const std::string& text : texts) padded += text + std::string(length - text.size(), '\0');
    const hsize_t count = texts.size();
    const Hdf5Space space(session_.require(H5Screate_simple(1, &count, nullptr), "make a data space"));
    const Hdf5Type type = fixed_text(length);
    write_attribute(object, name, type.get(), type.get(), space, padded.data());
  }

  Hdf5Session session_;
  Hdf5File hdf5_;
};

ShardLayout create_shard(const std::filesystem::path& path, const ImageShape& shape,
                         std::span<const std::int32_t> labels, std::span<const std::uint64_t> source_ids,
                         const ShardAttributes& attributes) {
  if (labels.empty() || labels.size() != source_ids.size()) {
    throw std::invalid_argument("ShardWriter: labels and source ids must be as many as the images, at least one");
  }
  if (!is_plausible(shape.channels, shape.height, shape.width)) {
    throw std::invalid_argument("ShardWriter: implausible image shape");
  }
  ShardLayout layout;
  layout.images = labels.size();
  layout.shape = shape;
  layout.labels_crc32c = crc32c(std::as_bytes(labels));
  layout.source_id_crc32c = crc32c(std::as_bytes(source_ids));

  ShardCreator creator(path, layout);
  creator.write_attributes(attributes);
  const hsize_t n = layout.images;
  const std::array<hsize_t, 4> image_extents{n, shape.channels, shape.height, shape.width};
  layout.images_offset = creator.add_dataset("images", H5T_STD_U8LE, image_extents);
  layout.labels_offset = creator.add_dataset("labels", H5T_STD_I32LE, {&n, 1}, &layout.labels_crc32c);
  layout.source_id_offset = creator.add_dataset("source_id", H5T_STD_U64LE, {&n, 1}, &layout.source_id_crc32c);
  layout.crc32c_offset = creator.add_dataset("crc32c", H5T_STD_U32LE, {&n, 1});
  creator.close();
  return layout;
}

}  // namespace

ShardWriter::ShardWriter(const std::filesystem::path& path, const ImageShape& shape,
                         std::span<const std::int32_t> labels, std::span<const std::uint64_t> source_ids,
                         const ShardAttributes& attributes)
    : layout_(create_shard(path, shape, labels, source_ids, attributes)),
      file_(File::open_for_writing(path)),
      crc32c_(layout_.images),
      written_(layout_.images) {
  file_.pwrite_all(std::as_bytes(labels), layout_.labels_offset);
  file_.pwrite_all(std::as_bytes(source_ids), layout_.source_id_offset);
}

void ShardWriter::write(std::uint64_t first, std::span<const std::uint8_t> pixels) {
  const std::size_t image_bytes = layout_.shape.bytes();
  const std::uint64_t count = pixels.size() / image_bytes;
  if (pixels.size() % image_bytes != 0) throw std::invalid_argument("ShardWriter::write: not whole images");
  if (first > layout_.images || count > layout_.images - first)
    throw std::invalid_argument("ShardWriter::write: more images than labels");
  const auto bytes = std::as_bytes(pixels);
  file_.pwrite_all(bytes, layout_.images_offset + first * image_bytes);
  for (std::uint64_t i = 0; i < count; ++i) {
    crc32c_[first + i] = crc32c(bytes.subspan(i * image_bytes, image_bytes));
    written_[first + i] = true;
  }
}

void ShardWriter::finish() {
  if (std::find(written_.begin(), written_.end(), false) != written_.end())
    throw std::logic_error("ShardWriter::finish: images are missing");
  file_.pwrite_all(std::as_bytes(std::span(crc32c_)), layout_.crc32c_offset);
  file_.sync();
  file_.close();
}

}  // namespace perrin::data
