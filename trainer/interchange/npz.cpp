#include "trainer/interchange/npz.hpp"

#include <ATen/ATen.h>
#include <zip.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/source/npz.hpp"
#include "data/source/zip_archive.hpp"

namespace perrin::trainer {
namespace {

static_assert(std::endian::native == std::endian::little, "the type names below say little-endian");

constexpr std::size_t kAlignment = 64;                // of an array's data within its .npy
constexpr std::uint16_t kDosTime = 0, kDosDate = 33;  // 1980-01-01, as numpy writes: no clock in the bytes

std::string numpy_type(const std::string& name, at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return "<f8";
    case at::kFloat:
      return "<f4";
    case at::kLong:
      return "<i8";
    case at::kByte:
      return "|u1";
    default:
      throw std::invalid_argument("write_npz: '" + name + "' has type " + c10::toString(type) +
                                  "; float64, float32, int64 and uint8 are written");
  }
}

/// "(2, 3)", "(4,)" or "()", as Python writes a tuple.
std::string python_tuple(at::IntArrayRef shape) {
  std::string text;
  for (const std::int64_t size : shape) text += std::to_string(size) + ", ";
  if (shape.size() > 1) text.resize(text.size() - 2);
  if (shape.size() == 1) text.pop_back();
  return "(" + text + ")";
}

/// The whole .npy file: magic, version 1.0, length of the header, header padded with blanks to the alignment, data.
std::string npy_bytes(const std::string& name, const at::Tensor& array) {
  const at::Tensor data = array.detach().cpu().contiguous();
  std::string header = "{'descr': '" + numpy_type(name, data.scalar_type()) +
                       "', 'fortran_order': False, 'shape': " + python_tuple(data.sizes()) + ", }";
  constexpr std::size_t kBeforeHeader = 10;
  const std::size_t unpadded = kBeforeHeader + header.size() + 1;
  header.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  header += '\n';
  std::string bytes = {'\x93', 'N', 'U', 'M', 'P', 'Y', '\x01', '\x00'};
  bytes += static_cast<char>(header.size() & 0xFF);
  bytes += static_cast<char>(header.size() >> 8);
  bytes += header;
  bytes.append(static_cast<const char*>(data.const_data_ptr()), data.nbytes());
  return bytes;
}

at::ScalarType tensor_type(const std::filesystem::path& path, const data::NpzArray& array) {
  for (const auto& [name, type] :
       {std::pair{"<f8", at::kDouble}, {"<f4", at::kFloat}, {"<i8", at::kLong}, {"|u1", at::kByte}})
    if (array.type == name) return type;
  throw data::DataError(path, "holds '" + array.name + "' of type " + array.type +
                                  "; float64, float32, int64 and uint8 are read: save it again as one of them");
}

struct Discard {
  void operator()(zip_t* archive) const { zip_discard(archive); }
  void operator()(zip_source_t* source) const { zip_source_free(source); }
};

/// A zip archive that grows in memory. Every failure is a DataError of the file that it will become.
class ZipInMemory {
 public:
  explicit ZipInMemory(std::filesystem::path path) : path_(std::move(path)) {
    zip_error_t error;
    zip_error_init(&error);
    target_.reset(zip_source_buffer_create(nullptr, 0, 0, &error));
    if (target_ == nullptr) fail(error);
    archive_.reset(zip_open_from_source(target_.get(), ZIP_CREATE | ZIP_TRUNCATE, &error));
    if (archive_ == nullptr) fail(error);
    zip_source_keep(target_.get());  // the archive owns one reference, this object the other
  }

  /// @param bytes  must stay until finish()
  void add(const std::string& name, const std::string& bytes) {
    std::unique_ptr<zip_source_t, Discard> entry(zip_source_buffer(archive_.get(), bytes.data(), bytes.size(), 0));
    if (entry == nullptr) fail(*zip_get_error(archive_.get()));
    const zip_int64_t added = zip_file_add(archive_.get(), name.c_str(), entry.get(), ZIP_FL_ENC_UTF_8);
    if (added < 0) fail(*zip_get_error(archive_.get()));
    entry.release();  // the archive's now
    const auto index = static_cast<zip_uint64_t>(added);
    if (zip_set_file_compression(archive_.get(), index, ZIP_CM_STORE, 0) != 0 ||
        zip_file_set_dostime(archive_.get(), index, kDosTime, kDosDate, 0) != 0)
      fail(*zip_get_error(archive_.get()));
  }

  std::vector<std::byte> finish() {
    if (zip_close(archive_.get()) != 0) fail(*zip_get_error(archive_.get()));
    archive_.release();
    zip_stat_t status;
    if (zip_source_open(target_.get()) != 0 || zip_source_stat(target_.get(), &status) != 0)
      fail(*zip_source_error(target_.get()));
    std::vector<std::byte> bytes(status.size);
    if (zip_source_read(target_.get(), bytes.data(), bytes.size()) != static_cast<zip_int64_t>(bytes.size()))
      fail(*zip_source_error(target_.get()));
    zip_source_close(target_.get());
    return bytes;
  }

 private:
  [[noreturn]] void fail(const zip_error_t& error) const {
    zip_error_t own;  // zip_error_strerror keeps its text in the error
    zip_error_init(&own);
    zip_error_set(&own, zip_error_code_zip(&error), zip_error_code_system(&error));
    const std::string reason = zip_error_strerror(&own);
    zip_error_fini(&own);
    throw data::DataError(path_, "cannot be made as a zip file: " + reason);
  }

  std::filesystem::path path_;
  std::unique_ptr<zip_source_t, Discard> target_;
  std::unique_ptr<zip_t, Discard> archive_;
};

}  // namespace

void write_npz(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& arrays) {
  if (arrays.empty() || arrays.begin()->first.empty())
    throw std::invalid_argument("write_npz: every file needs an array, and every array a name");
  std::vector<std::string> entries;
  for (const auto& [name, array] : arrays) entries.push_back(npy_bytes(name, array));
  ZipInMemory archive(path);
  for (std::size_t i = 0; const auto& [name, array] : arrays) archive.add(name + ".npy", entries[i++]);
  data::write_file_durably(path, archive.finish());
}

std::map<std::string, at::Tensor> read_npz(const std::filesystem::path& path, std::span<const std::string> names) {
  const data::ZipArchive archive(path);
  if (!data::is_npz(archive)) throw data::DataError(path, "is no file of numpy.savez");
  std::map<std::string, at::Tensor> arrays;
  for (const data::ZipMember& member : archive.members()) {
    const std::string name = std::filesystem::path(member.name).replace_extension().string();
    if (std::find(names.begin(), names.end(), name) == names.end()) continue;
    const data::NpzContents contents = data::read_npz_array(archive, name);
    const std::vector<std::int64_t> shape(contents.array.shape.begin(), contents.array.shape.end());
    at::Tensor array = at::empty(shape, tensor_type(path, contents.array));
    if (!contents.bytes.empty()) std::memcpy(array.mutable_data_ptr(), contents.bytes.data(), contents.bytes.size());
    arrays.emplace(name, std::move(array));
  }
  return arrays;
}

}  // namespace perrin::trainer
