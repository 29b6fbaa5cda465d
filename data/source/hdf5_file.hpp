#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/hdf5_session.hpp"
#include "data/source/array_layout.hpp"

namespace perrin::data {

/// How a dataset of images is stored: all that is needed to read it piece by piece.
struct StoredImages {
  std::string name;
  ImageAxes axes;
  std::vector<std::uint64_t> extents;
  std::optional<std::uint64_t> offset;  // in the file, where they are contiguous
  std::uint64_t block_images = 0;       // else as many as are best unpacked at once: whole chunks
};

/// Other people's HDF5 file, open for reading. HDF5 knows one user at a time (Hdf5Session): not to be kept.
class Hdf5Arrays {
 public:
  /// @throws DataError as every function here, also for links, external storage and virtual datasets
  explicit Hdf5Arrays(const std::filesystem::path& file);

  /// Of the objects in the root group.
  std::vector<std::string> names() const;
  StoredImages images(const std::string& name, const std::optional<Layout>& layout) const;
  std::vector<std::int64_t> labels(const std::string& name) const;
  /// Images [first, first + count) as they are stored.
  void read(const StoredImages& images, std::uint64_t first, std::uint64_t count, std::span<std::uint8_t> pixels) const;

 private:
  [[noreturn]] void refuse(const std::string& reason) const;
  Hdf5File open() const;
  Hdf5Dataset open_dataset(const std::string& name) const;
  std::vector<std::uint64_t> extents_of(const Hdf5Dataset& dataset, const std::string& name) const;
  std::uint64_t bytes_of(std::span<const std::uint64_t> extents, const std::string& name) const;
  Hdf5Properties creation_of(const Hdf5Dataset& dataset, const std::string& name) const;
  std::uint64_t block_images(const Hdf5Properties& creation, const StoredImages& images) const;

  std::filesystem::path path_;
  std::uint64_t file_bytes_;
  Hdf5Session session_;
  Hdf5File hdf5_;
};

}  // namespace perrin::data
