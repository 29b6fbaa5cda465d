#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "trainer/evaluate/frechet_distance.hpp"
#include "trainer/evaluate/inception_score.hpp"
#include "trainer/evaluate/kernel_distance.hpp"
#include "trainer/evaluate/precision_recall.hpp"
#include "trainer/evaluate/reference_statistics.hpp"
#include "trainer/evaluate/sample_features.hpp"

namespace perrin::trainer {

/// What the samples of a model are worth, as far as extractor and reference allow it to be said.
struct SampleScores {
  std::int64_t samples = 0;
  std::string samples_sha256;
  ExtractorIdentity extractor;
  std::string reference_dataset;      ///< fingerprint; empty: unknown
  std::int64_t reference_images = 0;  ///< 0: unknown
  double frechet = 0;
  std::optional<KernelDistance> kernel;              ///< where the reference has features
  std::optional<InceptionScore> inception;           ///< where the extractor knows classes
  std::optional<PrecisionRecall> precision_recall;   ///< thorough only
  std::optional<ExtrapolatedDistance> extrapolated;  ///< thorough only, and of enough samples
};

/// How much is measured: precision, recall and the extrapolation take far longer than the rest.
enum class Thoroughness { quick, thorough };

/// @throws RunError for no more samples than features have dimensions: their covariance has no full rank, and the
/// distance would say so rather than anything of the model
void require_enough_samples(std::int64_t samples, std::int64_t dimension);

/// On one rank. @throws RunError as require_enough_samples, and for features that are not finite
SampleScores score_samples(const SampleFeatures& samples, const ReferenceStatistics& reference,
                           const ExtractorIdentity& extractor, Thoroughness thoroughness);

/// Every score by its name, "fid" of the field's network and "fashion_fid" of the built-in one; and what it was
/// measured with: n, extractor and its hash, preprocessing, quantisation, reference, the samples' hash.
nlohmann::ordered_json to_json(const SampleScores& scores);

/// One line for people: "fashion_fid 12.34 (10000 samples), fashion_kid ...".
std::string summary(const SampleScores& scores);

}  // namespace perrin::trainer
