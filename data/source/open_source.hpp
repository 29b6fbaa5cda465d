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

/// What other people's images, and perrin's own, are stored as.
enum class SourceKind {
  idx,
  idx_folder,
  tar,
  cifar_file,
  cifar_folder,
  zip,
  image_folder,
  hdf5,
  hdf5_files,  // a folder of them, or a pattern like parts/train_*.h5
  dataset,
};

/// What the contents of a path do not say. Each is refused where the kind of source has no use for it.
struct SourceOptions {
  std::filesystem::path labels;  // the second file, of IDX and HDF5
  ArrayOptions arrays;           // of files of named arrays
  std::vector<std::string> class_names;
  std::optional<Subset> subset;             // of CIFAR and folders of IDX files; train if not said
  std::optional<CifarLabels> cifar_labels;  // of CIFAR-100; fine if not said
};

/// Recognises what a file, folder or pattern is, by its contents and not by its name.
/// @throws DataError for what is not recognised or refused (pickles), with the remedy
SourceKind recognise_source(const std::filesystem::path& path);

/// Opens whatever it is. @throws DataError as recognise_source(), and for options without use
std::unique_ptr<PictureSource> open_source(const std::filesystem::path& path, const SourceOptions& options);

}  // namespace perrin::data
