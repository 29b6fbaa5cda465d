#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/source/array_layout.hpp"
#include "data/source/array_source.hpp"

namespace perrin::data {

class ZipArchive;

/// Whether a zip archive is one that numpy.savez wrote: nothing but .npy files.
bool is_npz(const ZipArchive& archive);

/// One array of an archive, by its header.
struct NpzArray {
  std::string name;
  std::string type;  // numpy's: "|u1", "<f4"
  std::vector<std::uint64_t> shape;
};

/// What arrays an archive of numpy.savez holds, without reading them.
/// @throws DataError for members that are no arrays, or Python objects (which are pickles)
std::vector<NpzArray> list_npz(const ZipArchive& archive);

/// One array, read whole.
struct NpzContents {
  NpzArray array;
  std::vector<std::byte> bytes;  // row-major, in the byte order of its type
};

/// @throws DataError naming the member where it is missing, damaged, in Fortran order or full of Python objects
NpzContents read_npz_array(const ZipArchive& archive, const std::string& name);

/// Arrays of numpy.savez or savez_compressed: uint8 images of rank 3 or 4, and labels of any integer type, rank 1.
/// As guided-diffusion's sampler writes: arr_0 [n, H, W, C], arr_1 [n].
/// @throws DataError naming the member for other types, Python objects (which are pickles) or shapes
std::unique_ptr<ArraySource> read_npz(const ZipArchive& archive, const ArrayOptions& options,
                                      std::vector<std::string> class_names);

}  // namespace perrin::data
