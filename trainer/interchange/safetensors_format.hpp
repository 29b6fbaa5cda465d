#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

/// The safetensors format: u64 little-endian header length, JSON header, raw tensors. No LibTorch types: spans of
/// bytes.
namespace perrin::trainer {

/// Element types that perrin writes or reads, by their safetensors names.
enum class ElementType { F64, F32, F16, BF16, I64, I32, U8, BOOL };

/// Bytes of one element.
std::size_t size_of(ElementType type);

/// A tensor that lives elsewhere: contiguous, row-major, little-endian bytes.
struct TensorView {
  ElementType type = ElementType::F32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

struct NamedTensorView {
  std::string name;
  TensorView tensor;
};

/// What a written file is.
struct WrittenFile {
  std::uint64_t bytes = 0;
  std::string sha256;

  bool operator==(const WrittenFile&) const = default;
};

/// Writes a new file, in the order given, and syncs it. The header is padded to 8 bytes, so that float32 and int64 data
/// are aligned.
/// @param metadata  becomes "__metadata__"; {"format": "pt"} is added when absent, without which some readers refuse
/// the file
/// @throws std::invalid_argument when a name repeats or bytes do not match the shape; data::DataError when the file
/// exists or cannot be
///         written
WrittenFile write_safetensors(const std::filesystem::path& path, std::span<const NamedTensorView> tensors,
                              std::map<std::string, std::string> metadata = {});

/// A file read whole and checked completely before anything is handed out: header within bounds, valid UTF-8, no
/// repeated key, known types, sizes that match shapes without overflow, data that cover the rest of the file without
/// overlap, hole or remainder.
class SafetensorsFile {
 public:
  /// @throws data::DataError naming the file, the tensor and what is wrong
  static SafetensorsFile read(const std::filesystem::path& path);
  /// The same of contents that are in memory already, as those of a file that the program carries.
  /// @param name  what errors call them
  static SafetensorsFile from_bytes(std::vector<std::byte> contents, const std::filesystem::path& name);

  /// Views into this object, by name.
  const std::map<std::string, TensorView>& tensors() const& { return tensors_; }
  const std::map<std::string, std::string>& metadata() const& { return metadata_; }
  const std::map<std::string, TensorView>& tensors() && = delete;  // they would outlive their bytes
  const std::map<std::string, std::string>& metadata() && = delete;

 private:
  SafetensorsFile() = default;

  std::vector<std::byte> contents_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace perrin::trainer
