#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/source/array_layout.hpp"
#include "data/source/cifar.hpp"
#include "data/source/picture_source.hpp"

namespace perrin::data {

/// What the contents of a path do not say. Each is refused where the kind of source has no use for it.
struct SourceOptions {
  std::filesystem::path labels;  // the second file of an IDX pair
  ArrayOptions arrays;           // of files of named arrays
  std::vector<std::string> class_names;
  std::optional<Subset> subset;             // of CIFAR; train if not said
  std::optional<CifarLabels> cifar_labels;  // of CIFAR-100; fine if not said
};

/// Recognises what a file or folder is, by its contents and not by its name, and opens it.
/// @throws DataError for what is not recognised or refused (pickles), with the remedy, and for options without use
std::unique_ptr<PictureSource> open_source(const std::filesystem::path& path, const SourceOptions& options);

}  // namespace perrin::data
