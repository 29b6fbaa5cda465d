#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "data/image_source.hpp"
#include "data/manifest.hpp"

namespace perrin::data {

struct PrepareOptions {
  /// The dataset's folder; it appears only when whole. One that holds anything else is an error.
  std::filesystem::path output;
  /// Images in a shard; 0: as many as 1 GiB holds.
  std::uint64_t shard_images = 0;
  /// Images are stored in an order shuffled by this seed, so that neighbours on disk are a fair mixture.
  std::uint64_t shuffle_seed = 0;
  /// Zeros are added evenly around every image up to this height and width; 0: none.
  std::uint32_t pad = 0;
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

}  // namespace perrin::data
