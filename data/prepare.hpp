#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "data/image_source.hpp"
#include "data/manifest.hpp"
#include "data/part.hpp"

namespace perrin::data {

class StagingFolder;
struct PreparePlan;

/// The manifest's `shuffle.algorithm` of a dataset that is stored in the order of its source.
inline constexpr std::string_view kKeptOrder = "none";

struct PrepareOptions {
  /// The dataset's folder; it appears only when whole. One that holds anything else is an error.
  std::filesystem::path output;
  /// Images in a shard; 0: as many as 1 GiB holds.
  std::uint64_t shard_images = 0;
  /// Images are stored in an order shuffled by this seed, so that neighbours on disk are a fair mixture.
  std::uint64_t shuffle_seed = 0;
  /// Zeros are added evenly around every image up to this height and width; 0: none.
  std::uint32_t pad = 0;
  /// Images are stored in the order of the source instead.
  bool keep_order = false;
};

struct PrepareOutcome {
  Manifest manifest;
  /// The folder held this very dataset already; nothing was written.
  bool was_there = false;
};

/// Called with images done and in all, from the calling thread.
using PrepareProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// Writes a source as a dataset of format version 1. Equal source and options give equal files, byte by byte, and the
/// same UUID and fingerprint. Works in a folder beside the output and renames it at the end: whatever interrupts it,
/// nothing that looks finished is left; the same call again keeps the shards that are whole and goes on after them.
/// @throws DataError for an output that is in use or holds something else, a padding smaller than the images, or a file
///         system that fails; std::invalid_argument for a source without images
PrepareOutcome prepare(const ImageSource& source, const PrepareOptions& options, const PrepareProgress& progress = {});

/// The same as the work of several processes with equal sources and options: each makes one, one of them calls begin(),
/// then each calls write() for its part, then the first publish(). The files do not depend on the number of parts.
class Preparation {
 public:
  /// @param source         outlives it
  /// @param source_digest  what source.digest() gives; that reads every image, so that one process does it for all
  Preparation(const ImageSource& source, const PrepareOptions& options, const std::string& source_digest);
  Preparation(Preparation&&) noexcept;
  /// Removes what was begun and holds no whole shard.
  ~Preparation();

  /// Of the dataset that is wanted; without its shards.
  const Manifest& wanted() const noexcept;
  std::uint64_t num_shards() const noexcept;

  /// Looks at the output, and takes it into possession until this object goes.
  /// @return whether it holds the wanted dataset already; then there is nothing to do
  bool begin();
  /// Writes the shards of a part that are not there yet. Reads the images of each shard in the order of the source.
  /// @param progress  called with the images of this part that are done
  void write(const Part& part, const std::function<void(std::uint64_t done)>& progress) const;
  /// After begin() and all parts: writes the manifest and gives the folder its name.
  Manifest publish();

 private:
  void write_shard(std::uint64_t index, std::uint64_t done,
                   const std::function<void(std::uint64_t done)>& progress) const;

  const ImageSource& source_;
  std::filesystem::path output_;
  std::unique_ptr<const PreparePlan> plan_;
  std::unique_ptr<StagingFolder> staging_;  // of the process that has begun
};

}  // namespace perrin::data
