#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/source/array_layout.hpp"
#include "data/source/picture_source.hpp"

namespace perrin::data {

/// Other people's HDF5: a dataset of uint8 images, rank 3 or 4, and one of integer labels, [n] or [n, 1, ...], in the
/// root group, as of BigGAN (imgs, labels), Galaxy10 (images, ans) or PCam (x, y). Contiguous images are read where
/// they lie; chunked ones are unpacked into memory, up to 16 GiB.
/// @throws DataError for links, external storage, virtual datasets, other types and shapes, unknown filters, or a file
///         that HDF5 does not open
std::unique_ptr<PictureSource> read_hdf5_arrays(const std::filesystem::path& file, const ArrayOptions& options,
                                                std::vector<std::string> class_names);

}  // namespace perrin::data
