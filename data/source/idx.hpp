#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/source/array_source.hpp"
#include "data/source/subset.hpp"

namespace perrin::data {

/// A pair of IDX files, plain or gzip, as of MNIST and its family: uint8 images of rank 3 [n, H, W] and uint8 labels
/// of rank 1 [n], after big-endian headers (http://yann.lecun.com/exdb/mnist).
/// @throws DataError for a wrong magic number, type, rank or size, a damaged archive, or counts that differ
std::unique_ptr<ArraySource> read_idx_pair(const std::filesystem::path& images, const std::filesystem::path& labels,
                                           std::vector<std::string> class_names = {});

/// Whether a folder's file of this name makes it one of MNIST's family: train-images-idx3-ubyte, t10k-labels.gz, ...
bool is_idx_member(std::string_view name);

/// Such a folder: `train-` or `t10k-` files, plain or .gz (the plain one where both are there).
/// @throws DataError also where one of the two files is missing, or there twice
std::unique_ptr<ArraySource> read_idx_folder(const std::filesystem::path& folder, Subset subset,
                                             std::vector<std::string> class_names = {});

}  // namespace perrin::data
