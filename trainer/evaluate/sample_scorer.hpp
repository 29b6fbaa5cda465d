#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "comm/communicator.hpp"
#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/evaluate/feature_extractor.hpp"
#include "trainer/evaluate/reference_statistics.hpp"
#include "trainer/evaluate/sample_features.hpp"
#include "trainer/evaluate/sample_scores.hpp"
#include "trainer/interrupt.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {

/// Weights whose samples are scored.
struct ScoredWeights {
  std::string name;    ///< raw, or which EMA
  std::string sha256;  ///< of names and values
  std::int64_t step = 0;
};

/// Draws samples as [sample] of a configuration says, and scores them as [evaluate] says: of one network after the
/// other, with one extractor and one reference.
class SampleScorer {
 public:
  /// Opens the extractor and looks at the reference; one that is a dataset is measured with the first samples. On every
  /// rank, but not collective.
  /// @param resolved_config  every key as text, of `config`, which outlives this
  /// @param folder  for samples that are being scored, the statistics of a reference, and scores
  /// @throws RunError, saying which key to change, for a reference or an extractor that is missing or does not fit the
  /// images, and for too few samples; data::DataError for a reference that is damaged
  SampleScorer(const Config& config, std::string resolved_config, const data::ImageShape& shape,
               std::filesystem::path folder, at::Device device);

  /// evaluate.samples samples. One that was interrupted is gone on with by the next of the same weights. Collective.
  /// @return as sample_features
  std::optional<SampleFeatures> draw(const UNet& model, const ScoredWeights& weights, comm::Communicator& control,
                                     bool keep_images, const Narrator& narrate, const Interrupt& interrupt = {});

  /// Of what draw() returned, on rank 0. @throws RunError as score_samples
  SampleScores scores(const SampleFeatures& samples, Thoroughness thoroughness) const;
  /// Scores, and all that they depend on.
  nlohmann::ordered_json report(const SampleScores& scores, const ScoredWeights& weights) const;
  /// Stores a report, on rank 0; what draw() had stored for a restart is deleted, and so is what it had of earlier
  /// steps that nobody goes on with. @throws data::DataError
  void keep(const nlohmann::ordered_json& report, const ScoredWeights& weights) const;
  /// The report that is kept of these weights; nullopt where there is none that can be read.
  std::optional<nlohmann::ordered_json> kept(const ScoredWeights& weights) const;

 private:
  std::filesystem::path journal_of(const ScoredWeights& weights) const;
  std::string key_of(const ScoredWeights& weights) const;
  std::filesystem::path report_of(const ScoredWeights& weights) const;

  const Config& config_;
  std::string resolved_config_;
  data::ImageShape shape_;
  std::filesystem::path folder_, reference_path_;
  at::Device device_;
  std::unique_ptr<FeatureExtractor> extractor_;
  std::optional<ReferenceStatistics> reference_;  // empty ones but on rank 0
};

}  // namespace perrin::trainer
