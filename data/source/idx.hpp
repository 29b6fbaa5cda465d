#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/source/array_source.hpp"

namespace perrin::data {

/// A pair of IDX files, plain or gzip, as of MNIST and its family: uint8 images of rank 3 [n, H, W] and uint8 labels
/// of rank 1 [n], after big-endian headers (http://yann.lecun.com/exdb/mnist).
/// @throws DataError for a wrong magic number, type, rank or size, a damaged archive, or counts that differ
std::unique_ptr<ArraySource> read_idx_pair(const std::filesystem::path& images, const std::filesystem::path& labels,
                                           std::vector<std::string> class_names = {});

}  // namespace perrin::data
