#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "comm/communicator.hpp"
#include "data/dataset.hpp"
#include "trainer/evaluate/feature_extractor.hpp"
#include "trainer/evaluate/feature_statistics.hpp"
#include "trainer/evaluate/variational_bound.hpp"
#include "trainer/interrupt.hpp"

namespace perrin::trainer {

/// What samples are compared with.
struct ReferenceStatistics {
  GaussianFit fit;          ///< of all images
  std::int64_t images = 0;  ///< 0: the file does not say
  at::Tensor features;      ///< [M, D] float32, of at most kReferenceFeatures images taken evenly; undefined where the
                            ///< file holds none: then there is neither kernel distance nor precision and recall
  std::string dataset;      ///< fingerprint of the dataset; empty: unknown
  ExtractorIdentity extractor;
};

/// Images whose features are kept, as ADM's evaluator keeps them.
inline constexpr std::int64_t kReferenceFeatures = 10'000;

/// Statistics of every image of a dataset, not mirrored, in batches of one fixed size: the same bits on any number of
/// ranks with the same threads each. Collective.
/// @return on rank 0 the statistics, on others empty ones; nullopt if interrupted
/// @throws RunError for fewer than two images; data::DataError, comm::CommError
std::optional<ReferenceStatistics> measure_reference(const data::Dataset& dataset, const FeatureExtractor& extractor,
                                                     comm::Communicator& control, const Narrator& narrate = {},
                                                     const Interrupt& interrupt = {});

/// Writes an .npz: mu [D] and sigma [D, D], float64, as guided-diffusion, EDM and pytorch-fid read them; and features,
/// n and perrin (JSON, uint8), which those pass over. An existing file is replaced whole.
/// @throws data::DataError
void write_reference(const std::filesystem::path& path, const ReferenceStatistics& statistics);

/// The statistics at a path: those of a file, or of a dataset folder, which are measured the first time and then kept
/// in `cache` under a name made of dataset and extractor; a disk that refuses them costs nothing else. Collective;
/// arguments as above.
std::optional<ReferenceStatistics> reference_at(const std::filesystem::path& path, const std::filesystem::path& cache,
                                                const FeatureExtractor& extractor, comm::Communicator& control,
                                                const Narrator& narrate = {}, const Interrupt& interrupt = {});

/// Refuses, before any work, a path that reference_at() could not use for images of this shape.
/// @throws RunError, data::DataError
void require_reference(const std::filesystem::path& path, const data::ImageShape& shape,
                       const FeatureExtractor& extractor);

/// Reads one, for samples that `extractor` sees. Statistics that do not say what made them are taken for those of the
/// field's Inception network, and refused with any other.
/// @throws data::DataError for a file that is damaged or of another shape; RunError, saying both, for statistics of
/// another extractor or preprocessing
ReferenceStatistics read_reference(const std::filesystem::path& path, const ExtractorIdentity& extractor);

}  // namespace perrin::trainer
