#include "data/shard_opener.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.hpp"
#include "data/hdf5_session.hpp"

namespace perrin::data {
namespace {

constexpr std::string_view kSignature("\x89HDF\r\n\x1a\n", 8);
constexpr std::size_t kSniffBytes = 64;
/// The longest text or list of class names that is taken for an attribute of ours (HDF5's own limit is 64 KiB).
constexpr std::size_t kMaxAttributeBytes = 64 * 1024;
constexpr int kMaxRank = 4;

void refuse_foreign(const File& file) {
  const std::uint64_t size = file.size();
  if (size == 0) throw DataError(file.path(), "is empty; copy or prepare the dataset again");
  std::array<char, kSniffBytes> start{};
  const std::size_t length = std::min<std::uint64_t>(size, start.size());
  file.pread_exact(std::as_writable_bytes(std::span(start.data(), length)), 0);
  const std::string_view head(start.data(), length);
  if (head.starts_with(kSignature)) return;
  const auto is_blank = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; };
  const auto first = std::find_if_not(head.begin(), head.end(), is_blank);
  if (head.starts_with("version https://git-lfs")) {
    throw DataError(file.path(), "is a Git-LFS pointer, not the shard itself; run `git lfs pull`");
  }
  if (first != head.end() && *first == '<') {
    throw DataError(file.path(), "is a web page (HTML or XML), not a shard; the download went wrong: repeat it");
  }
  if (std::all_of(head.begin(), head.end(), [](char c) { return c == '\0'; })) {
    throw DataError(file.path(),
                    "starts with zeros, not with HDF5's signature; an unfinished or damaged copy: repeat it");
  }
  throw DataError(file.path(), "does not start with HDF5's signature; is this the right file?");
}

/// What must hold for one dataset, and what is learnt from it.
struct Examined {
  std::vector<hsize_t> extents;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::optional<std::uint32_t> crc32c;
};

class ShardExaminer {
 public:
  explicit ShardExaminer(const File& file)
      : file_(file), session_(file.path()), file_bytes_(file.size()), hdf5_(open()) {}

  ShardAttributes attributes() const {
    const Hdf5Object root(session_.require(H5Oopen(hdf5_.get(), "/", H5P_DEFAULT), "open the root group"));
    require_text(root, "format", kShardFormat);
    const std::uint64_t version = read_number(root, "format_version");
    if (version != kFormatVersion) {
      refuse(fmt::format("has format version {}, this program reads version {}; use a matching version of perrin",
                         version, kFormatVersion));
    }
    require_text(root, "layout", kLayout);
    require_text(root, "value_range", kValueRange);
    ShardAttributes attributes;
    attributes.dataset_uuid = read_text(root, "dataset_uuid");
    attributes.shard_index = read_number(root, "shard_index");
    attributes.num_shards = read_number(root, "num_shards");
    attributes.class_names = read_texts(root, "class_names");
    attributes.converter = read_text(root, "converter");
    attributes.transform = read_text(root, "transform");
    attributes.shuffle_seed = read_number(root, "shuffle_seed");
    return attributes;
  }

  ShardLayout layout() const {
    const Examined images = examine("images", H5T_STD_U8LE, 1, 4);
    ShardLayout layout;
    layout.images = images.extents[0];
    if (!is_plausible(images.extents[1], images.extents[2], images.extents[3])) {
      refuse(fmt::format("/images has an implausible shape [{}]", fmt::join(images.extents, ", ")));
    }
    layout.shape = {static_cast<std::uint32_t>(images.extents[1]), static_cast<std::uint32_t>(images.extents[2]),
                    static_cast<std::uint32_t>(images.extents[3])};
    layout.images_offset = images.offset;

    const Examined labels = examine_per_image("labels", H5T_STD_I32LE, sizeof(std::int32_t), layout.images);
    const Examined source_id = examine_per_image("source_id", H5T_STD_U64LE, sizeof(std::uint64_t), layout.images);
    const Examined crc32c = examine_per_image("crc32c", H5T_STD_U32LE, sizeof(std::uint32_t), layout.images);
    layout.labels_offset = labels.offset;
    layout.source_id_offset = source_id.offset;
    layout.crc32c_offset = crc32c.offset;
    layout.labels_crc32c = checksum_attribute("labels");
    layout.source_id_crc32c = checksum_attribute("source_id");
    return layout;
  }

 private:
  [[noreturn]] void refuse(std::string_view reason) const { throw DataError(file_.path(), std::string(reason)); }

  Hdf5File open() const {
    const Hdf5Properties access = session_.file_access();
    const hid_t id = H5Fopen(file_.path().c_str(), H5F_ACC_RDONLY, access.get());
    if (id < 0) session_.fail("cannot be opened; it is truncated, unfinished or damaged: restore or prepare it again");
    return Hdf5File(id);
  }

  /// HDF5 would follow soft, external and user-defined links to any file on the machine.
  void require_hard_link(const std::string& name) const {
    if (H5Lexists(hdf5_.get(), name.c_str(), H5P_DEFAULT) <= 0) {
      session_.fail(fmt::format("has no dataset /{}; it is not a perrin shard of version {}", name, kFormatVersion));
    }
    H5L_info_t link{};
    session_.require(H5Lget_info(hdf5_.get(), name.c_str(), &link, H5P_DEFAULT), fmt::format("examine /{}", name));
    if (link.type != H5L_TYPE_HARD) {
      refuse(fmt::format("/{} is a soft or external link; a shard must hold its own data, links are refused", name));
    }
  }

  Hdf5Dataset open_dataset(const std::string& name) const {
    require_hard_link(name);
    Hdf5Object object(session_.require(H5Oopen(hdf5_.get(), name.c_str(), H5P_DEFAULT), fmt::format("open /{}", name)));
    if (H5Iget_type(object.get()) != H5I_DATASET) refuse(fmt::format("/{} is not a dataset", name));
    return Hdf5Dataset(
        session_.require(H5Dopen2(hdf5_.get(), name.c_str(), H5P_DEFAULT), fmt::format("open /{}", name)));
  }

  void require_plain_storage(const Hdf5Dataset& dataset, const std::string& name) const {
    const Hdf5Properties creation(
        session_.require(H5Dget_create_plist(dataset.get()), fmt::format("examine /{}", name)));
    const H5D_layout_t layout = H5Pget_layout(creation.get());
    if (layout == H5D_VIRTUAL) {
      refuse(fmt::format("/{} is a virtual dataset; it takes its data from other files, which is refused", name));
    }
    if (layout != H5D_CONTIGUOUS) {
      refuse(fmt::format("/{} is {}; format version {} stores datasets contiguous: write it again so", name,
                         layout == H5D_CHUNKED ? "chunked" : "compact", kFormatVersion));
    }
    if (H5Pget_external_count(creation.get()) != 0) {
      refuse(fmt::format("/{} has external storage; it takes its data from other files, which is refused", name));
    }
    if (H5Pget_nfilters(creation.get()) != 0) refuse(fmt::format("/{} has filters, which are refused", name));
  }

  Examined examine(const std::string& name, hid_t type, std::uint64_t element_bytes, int rank) const {
    const Hdf5Dataset dataset = open_dataset(name);
    require_plain_storage(dataset, name);

    const Hdf5Type stored(session_.require(H5Dget_type(dataset.get()), fmt::format("read the type of /{}", name)));
    if (H5Tequal(stored.get(), type) <= 0) {
      refuse(fmt::format("/{} has another element type than format version {} demands", name, kFormatVersion));
    }
    const Hdf5Space space(session_.require(H5Dget_space(dataset.get()), fmt::format("read the shape of /{}", name)));
    if (H5Sget_simple_extent_ndims(space.get()) != rank) {
      refuse(fmt::format("/{} has {} dimensions, not {}", name, H5Sget_simple_extent_ndims(space.get()), rank));
    }
    std::array<hsize_t, kMaxRank> extents{};
    session_.require(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr),
                     fmt::format("read the shape of /{}", name));

    Examined examined;
    examined.extents.assign(extents.begin(), extents.begin() + rank);
    std::uint64_t bytes = element_bytes;
    bool fits = true;
    for (const hsize_t extent : examined.extents) {
      fits = fits && extent > 0 && !__builtin_mul_overflow(bytes, std::uint64_t{extent}, &bytes);
    }
    if (!fits || bytes > file_bytes_) {
      refuse(fmt::format("/{} has shape [{}], which does not fit in a file of {} bytes; it is truncated or damaged",
                         name, fmt::join(examined.extents, ", "), file_bytes_));
    }
    const haddr_t offset = H5Dget_offset(dataset.get());
    if (offset == HADDR_UNDEF) session_.fail(fmt::format("/{} has no place in the file; it was never written", name));
    if (offset > file_bytes_ - bytes) {
      refuse(fmt::format("/{} should reach byte {}, the file has {}; it is truncated: restore it", name, offset + bytes,
                         file_bytes_));
    }
    examined.offset = offset;
    examined.bytes = bytes;
    return examined;
  }

  Examined examine_per_image(const std::string& name, hid_t type, std::uint64_t element_bytes,
                             std::uint64_t images) const {
    Examined examined = examine(name, type, element_bytes, 1);
    if (examined.extents[0] != images) {
      refuse(fmt::format("/{} has {} entries for {} images", name, examined.extents[0], images));
    }
    return examined;
  }

  std::uint32_t checksum_attribute(const std::string& dataset_name) const {
    const Hdf5Object object(
        session_.require(H5Oopen(hdf5_.get(), dataset_name.c_str(), H5P_DEFAULT), "open a dataset"));
    const std::uint64_t value = read_number(object, "crc32c");
    if (value > UINT32_MAX) refuse(fmt::format("/{}: attribute 'crc32c' has more than 32 bits", dataset_name));
    return static_cast<std::uint32_t>(value);
  }

  Hdf5Attribute open_attribute(const Hdf5Object& object, const char* name) const {
    return Hdf5Attribute(session_.require(
        H5Aopen(object.get(), name, H5P_DEFAULT),
        fmt::format("find attribute '{}'; is this a perrin shard of version {}?", name, kFormatVersion)));
  }

  std::uint64_t read_number(const Hdf5Object& object, const char* name) const {
    const Hdf5Attribute attribute = open_attribute(object, name);
    const Hdf5Type type(session_.require(H5Aget_type(attribute.get()), "read an attribute's type"));
    const Hdf5Space space(session_.require(H5Aget_space(attribute.get()), "read an attribute's shape"));
    if (H5Tget_class(type.get()) != H5T_INTEGER || H5Tget_size(type.get()) > sizeof(std::uint64_t) ||
        H5Tget_sign(type.get()) != H5T_SGN_NONE || H5Sget_simple_extent_npoints(space.get()) != 1) {
      refuse(fmt::format("attribute '{}' is not one unsigned integer", name));
    }
    std::uint64_t value = 0;
    session_.require(H5Aread(attribute.get(), H5T_NATIVE_UINT64, &value), fmt::format("read attribute '{}'", name));
    return value;
  }

  std::vector<std::string> read_texts_of(const Hdf5Attribute& attribute, const char* name) const {
    const Hdf5Type type(session_.require(H5Aget_type(attribute.get()), "read an attribute's type"));
    const Hdf5Space space(session_.require(H5Aget_space(attribute.get()), "read an attribute's shape"));
    // Variable-length strings live in a global heap, one more structure that a hostile file can bend.
    if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0) {
      refuse(fmt::format("attribute '{}' is not text of fixed length", name));
    }
    const std::size_t length = H5Tget_size(type.get());
    const hssize_t count = H5Sget_simple_extent_npoints(space.get());
    if (length == 0 || length > kMaxAttributeBytes || count < 1 ||
        static_cast<std::size_t>(count) > kMaxAttributeBytes / length) {
      refuse(fmt::format("attribute '{}' is empty or larger than {} bytes", name, kMaxAttributeBytes));
    }
    std::vector<char> text(length * static_cast<std::size_t>(count));
    session_.require(H5Aread(attribute.get(), type.get(), text.data()), fmt::format("read attribute '{}'", name));
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < text.size(); i += length) {
      texts.emplace_back(&text[i], strnlen(&text[i], length));
    }
    return texts;
  }

  std::string read_text(const Hdf5Object& object, const char* name) const {
    std::vector<std::string> texts = read_texts_of(open_attribute(object, name), name);
    if (texts.size() != 1) refuse(fmt::format("attribute '{}' is not one text", name));
    return std::move(texts.front());
  }

  /// An optional list: empty where the attribute is missing.
  std::vector<std::string> read_texts(const Hdf5Object& object, const char* name) const {
    if (H5Aexists(object.get(), name) <= 0) return {};
    return read_texts_of(open_attribute(object, name), name);
  }

  void require_text(const Hdf5Object& object, const char* name, std::string_view wanted) const {
    const std::string text = read_text(object, name);
    if (text != wanted)
      refuse(fmt::format("attribute '{}' is '{}', not '{}'; it is not a perrin shard", name, text, wanted));
  }

  const File& file_;
  Hdf5Session session_;
  std::uint64_t file_bytes_;
  Hdf5File hdf5_;
};

}  // namespace

std::pair<ShardLayout, ShardAttributes> examine_shard(const File& file) {
  refuse_foreign(file);
  const ShardExaminer examiner(file);
  ShardAttributes attributes = examiner.attributes();
  return {examiner.layout(), std::move(attributes)};
}

}  // namespace perrin::data
