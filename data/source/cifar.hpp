#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "data/source/array_source.hpp"
#include "data/source/subset.hpp"

namespace perrin::data {

/// Which of CIFAR-100's two labels.
enum class CifarLabels { fine, coarse };

/// Whether a file of this name, in a folder or an archive, makes it one of CIFAR's binary version.
bool is_cifar_member(std::string_view name);
/// Whether it belongs to CIFAR's Python version, which is pickled.
bool is_pickled_cifar_member(std::string_view name);

/// CIFAR-10 and CIFAR-100, binary version (https://www.cs.toronto.edu/~kriz/cifar.html): records of one label byte, or
/// a coarse and a fine one, and 3,072 bytes of pixels [3, 32, 32]. Class names come from the text files beside them.
/// @param path  the folder, its .tar or .tar.gz, or (without `subset`) one .bin file
/// @throws DataError for missing files, sizes that are no whole number of records, labels beyond the classes, and the
///         Python version, whose pickles can run code
std::unique_ptr<ArraySource> read_cifar(const std::filesystem::path& path, Subset subset, CifarLabels labels);
std::unique_ptr<ArraySource> read_cifar_file(const std::filesystem::path& file, CifarLabels labels);

}  // namespace perrin::data
