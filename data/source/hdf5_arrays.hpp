#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/source/array_layout.hpp"
#include "data/source/picture_source.hpp"

namespace perrin::data {

/// Other people's HDF5: a dataset of uint8 images, rank 3 or 4, and one of integer labels, [n] or [n, 1, ...], in the
/// root group, as of BigGAN (imgs, labels) or Galaxy10 (images, ans); several files are one after the other. Contiguous
/// images are read where they lie; of chunked ones, compressed or not, one block of whole chunks is in memory, 64 MiB
/// or one row of chunks: read them in order. For one thread at a time.
/// @throws DataError for links, external storage, virtual datasets, other types and shapes, unknown filters, chunks of
///         more than 1 GiB, or a file that HDF5 does not open
std::unique_ptr<PictureSource> read_hdf5_arrays(std::span<const std::filesystem::path> files,
                                                const ArrayOptions& options, std::vector<std::string> class_names);

/// Images and labels in files of their own, as of PCam (x, y).
/// @throws DataError
std::unique_ptr<PictureSource> read_hdf5_pair(const std::filesystem::path& images_file,
                                              const std::filesystem::path& labels_file, const ArrayOptions& options,
                                              std::vector<std::string> class_names);

}  // namespace perrin::data
