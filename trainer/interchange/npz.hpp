#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <span>
#include <string>

namespace perrin::trainer {

/// Writes arrays as numpy.savez does, for numpy.load: a zip file with one stored entry NAME.npy each, in the order of
/// names. The same arrays give the same bytes. An existing file is replaced whole, by rename.
/// Source: numpy.lib.format, version 1.0.
/// @param arrays  float64, float32, int64 or uint8; any device and strides (row-major on disk)
/// @throws std::invalid_argument for another type, no array, or an empty name; data::DataError when the file cannot be
/// written
void write_npz(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& arrays);

/// Those of the named arrays that a file of numpy.savez or savez_compressed holds.
/// @throws data::DataError for a file that is missing, damaged or none, and for a named array of another type than
/// float64, float32, int64 and uint8
std::map<std::string, at::Tensor> read_npz(const std::filesystem::path& path, std::span<const std::string> names);

}  // namespace perrin::trainer
