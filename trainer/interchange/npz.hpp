#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace perrin::trainer {

/// Writes arrays as numpy.savez does, for numpy.load: a zip file with one stored entry NAME.npy each, in the order of
/// names. The same arrays give the same bytes. An existing file is replaced whole, by rename.
/// Source: numpy.lib.format, version 1.0.
/// @param arrays  float64, float32, int64 or uint8; any device and strides (row-major on disk)
/// @throws std::invalid_argument for another type, no array, or an empty name; data::DataError when the file cannot be
/// written
void write_npz(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& arrays);

}  // namespace perrin::trainer
