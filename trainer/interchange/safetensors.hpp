#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

#include "trainer/interchange/safetensors_format.hpp"

/// safetensors_format.hpp for LibTorch's tensors.
namespace perrin::trainer {

/// Writes tensors (any device, any strides; logical row-major order on disk) to a new file, and syncs it.
/// @param metadata  free text; {"format": "pt"} is added
/// @throws std::invalid_argument for a type the format or perrin does not know; data::DataError when the file exists or
/// cannot be written
WrittenFile write_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                              const std::map<std::string, std::string>& metadata = {});

/// Copies of what a file holds: contiguous tensors on the CPU, by name.
std::map<std::string, at::Tensor> tensors_of(const SafetensorsFile& file);

/// Reads and checks a file completely. @return contiguous tensors on the CPU that own their memory, by name
/// @throws data::DataError naming the file, the tensor and what is wrong
std::map<std::string, at::Tensor> read_safetensors(const std::filesystem::path& path);

}  // namespace perrin::trainer
