#include "trainer/interchange/safetensors_format.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"

static_assert(std::endian::native == std::endian::little,
              "safetensors are little-endian; a big-endian machine would need swaps");

namespace perrin::trainer {
namespace {

using nlohmann::json;

struct TypeRow {
  ElementType type;
  std::string_view name;
  std::size_t bytes;
};
constexpr std::array<TypeRow, 8> kTypes{{{ElementType::F64, "F64", 8},
                                         {ElementType::F32, "F32", 4},
                                         {ElementType::F16, "F16", 2},
                                         {ElementType::BF16, "BF16", 2},
                                         {ElementType::I64, "I64", 8},
                                         {ElementType::I32, "I32", 4},
                                         {ElementType::U8, "U8", 1},
                                         {ElementType::BOOL, "BOOL", 1}}};

const TypeRow& row_of(ElementType type) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [type](const TypeRow& row) { return row.type == type; });
}

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr int kMaxDepth = 3;  // header object, tensor object, array: nothing in the format is deeper
constexpr std::string_view kMetadata = "__metadata__";

// Bytes of a tensor, or nothing when the product does not fit 64 bits (a product that wraps would pass for a small
// tensor). Nor when that of the other extents of an empty tensor does not: its strides would not fit.
std::optional<std::uint64_t> checked_bytes(ElementType type, const std::vector<std::int64_t>& shape) {
  std::uint64_t bytes = row_of(type).bytes;
  bool empty = false;
  for (const std::int64_t extent : shape) {
    if (extent < 0 ||
        __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(std::max<std::int64_t>(extent, 1)), &bytes) ||
        bytes > static_cast<std::uint64_t>(INT64_MAX)) {
      return std::nullopt;
    }
    empty = empty || extent == 0;
  }
  return empty ? 0 : bytes;
}

// Parses strictly: nlohmann checks syntax and UTF-8; repeated keys and depth are checked here, since parsers disagree
// on the former.
json parse_strictly(const std::filesystem::path& path, std::string_view text) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) {
      throw data::DataError(
          path, "safetensors header is nested deeper than the format allows; the file is damaged or hostile");
    }
    if (event == json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw data::DataError(
          path, "safetensors header names '" + parsed.get<std::string>() + "' twice; the file is damaged or hostile");
    }
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& error) {
    throw data::DataError(path, kLengthBytes,
                          std::string("safetensors header is not valid JSON (") + error.what() +
                              "); the file is damaged or of another format");
  }
}

[[noreturn]] void refuse_tensor(const std::filesystem::path& path, const std::string& name, const std::string& reason) {
  throw data::DataError(path, "safetensors tensor '" + name + "' " + reason +
                                  "; the file is damaged or was not written by a safetensors writer");
}

std::uint64_t unsigned_of(const std::filesystem::path& path, const std::string& name, const json& value) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX)) {
    refuse_tensor(path, name, "has a shape or offset that is not a natural number");
  }
  return value.get<std::uint64_t>();
}

struct Entry {
  TensorView view;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

Entry parse_entry(const std::filesystem::path& path, const std::string& name, const json& description) {
  if (!description.is_object() || description.size() != 3 || !description.contains("dtype") ||
      !description.contains("shape") || !description.contains("data_offsets") || !description["dtype"].is_string() ||
      !description["shape"].is_array() || !description["data_offsets"].is_array() ||
      description["data_offsets"].size() != 2) {
    refuse_tensor(path, name, "is not described by dtype, shape and two data_offsets");
  }
  const std::string& dtype = description["dtype"].get_ref<const std::string&>();
  const auto type = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& row) { return row.name == dtype; });
  if (type == kTypes.end()) {
    refuse_tensor(path, name, "has element type '" + dtype + "', which perrin does not read");
  }
  Entry entry;
  entry.view.type = type->type;
  for (const json& extent : description["shape"]) {
    entry.view.shape.push_back(static_cast<std::int64_t>(unsigned_of(path, name, extent)));
  }
  entry.begin = unsigned_of(path, name, description["data_offsets"][0]);
  entry.end = unsigned_of(path, name, description["data_offsets"][1]);
  const auto bytes = checked_bytes(entry.view.type, entry.view.shape);
  if (entry.begin > entry.end || !bytes || *bytes != entry.end - entry.begin) {
    refuse_tensor(path, name,
                  "takes " + std::to_string(entry.end) + " - " + std::to_string(entry.begin) +
                      " bytes, which is not what its shape and type need");
  }
  return entry;
}

/// A new file whose hash is known when it is written: each piece is hashed while it is in the cache, and the device
/// gets to work on it at once.
class HashedFile {
 public:
  explicit HashedFile(const std::filesystem::path& path) : file_(data::File::create(path)) {}

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const auto piece = bytes.first(std::min(bytes.size(), kPieceBytes));
      hash_.update(piece);
      file_.write_all(piece);
      bytes_ += piece.size();
      if (bytes_ - begun_ >= kPieceBytes) {
        file_.start_writeback(begun_, bytes_ - begun_);
        begun_ = bytes_;
      }
      bytes = bytes.subspan(piece.size());
    }
  }
  WrittenFile finish() {
    file_.sync();
    file_.close();
    return {bytes_, hash_.hex()};
  }

 private:
  static constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

  data::File file_;
  data::Sha256 hash_;
  std::uint64_t bytes_ = 0, begun_ = 0;  // written; of those, on their way to the device
};

}  // namespace

std::size_t size_of(ElementType type) { return row_of(type).bytes; }

WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const NamedTensorView> tensors,
                              std::map<std::string, std::string> metadata) {
  metadata.emplace("format", "pt");
  nlohmann::ordered_json header;
  header[std::string(kMetadata)] = metadata;
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::optional<std::uint64_t> bytes = checked_bytes(tensor.type, tensor.shape);
    if (!bytes || *bytes != tensor.bytes.size()) {
      throw std::invalid_argument("write_safetensors: '" + name + "' comes with " +
                                  std::to_string(tensor.bytes.size()) + " bytes, not those of its shape and type");
    }
    if (header.contains(name)) {
      throw std::invalid_argument("write_safetensors: the name '" + name + "' is taken twice");
    }
    header[name] = {
        {"dtype", row_of(tensor.type).name}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + *bytes}}};
    offset += *bytes;
  }
  std::string text = header.dump();
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');
  const std::uint64_t length = text.size();

  HashedFile file(path);
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(std::as_bytes(std::span(text)));
  for (const NamedTensorView& tensor : tensors) file.write(tensor.tensor.bytes);
  return file.finish();
}

SafetensorsFile SafetensorsFile::read(const std::filesystem::path& path) {
  return from_bytes(data::read_file(path), path);
}

SafetensorsFile SafetensorsFile::from_bytes(std::vector<std::byte> bytes, const std::filesystem::path& path) {
  SafetensorsFile file;
  file.contents_ = std::move(bytes);
  const std::span<const std::byte> contents(file.contents_);
  std::uint64_t length = 0;
  if (contents.size() < kLengthBytes) {
    throw data::DataError(
        path, "is too short for a safetensors file (" + std::to_string(contents.size()) + " bytes); restore it");
  }
  std::memcpy(&length, contents.data(), kLengthBytes);
  if (length > kMaxHeaderBytes || length > contents.size() - kLengthBytes) {
    throw data::DataError(path, "claims a safetensors header of " + std::to_string(length) + " bytes in a file of " +
                                    std::to_string(contents.size()) + "; it is truncated or of another format");
  }
  const std::string_view text(reinterpret_cast<const char*>(contents.data()) + kLengthBytes, length);
  if (!text.starts_with('{')) {
    throw data::DataError(path, kLengthBytes,
                          "safetensors header does not begin with '{'; the file is of another format");
  }
  const json header = parse_strictly(path, text);
  const std::span<const std::byte> body = contents.subspan(kLengthBytes + length);

  std::vector<std::pair<std::string, Entry>> entries;
  for (const auto& [name, description] : header.items()) {
    if (name != kMetadata) {
      entries.emplace_back(name, parse_entry(path, name, description));
      continue;
    }
    for (const auto& [key, value] : description.items()) {
      if (!description.is_object() || !value.is_string()) {
        throw data::DataError(
            path, "safetensors __metadata__ holds something that is not text; the file is damaged or hostile");
      }
      file.metadata_[key] = value.get<std::string>();
    }
  }

  // In order of their place, tensors must follow each other from the first byte to the last. Empty ones go first at
  // equal places.
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second.begin, a.second.end) < std::pair(b.second.begin, b.second.end);
  });
  std::uint64_t expected = 0;
  for (auto& [name, entry] : entries) {
    if (entry.begin != expected || entry.end > body.size()) {
      refuse_tensor(path, name,
                    "begins at byte " + std::to_string(entry.begin) + " and ends at " + std::to_string(entry.end) +
                        " of " + std::to_string(body.size()) + ", where byte " + std::to_string(expected) + " was due");
    }
    entry.view.bytes = body.subspan(entry.begin, entry.end - entry.begin);
    expected = entry.end;
    file.tensors_.emplace(name, std::move(entry.view));
  }
  if (expected != body.size()) {
    throw data::DataError(
        path, "has " + std::to_string(body.size() - expected) + " bytes after its last tensor; it is damaged");
  }
  return file;
}

}  // namespace perrin::trainer
