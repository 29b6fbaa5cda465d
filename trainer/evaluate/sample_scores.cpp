#include "trainer/evaluate/sample_scores.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "trainer/run_error.hpp"

namespace perrin::trainer {
namespace {

constexpr std::int64_t kSplits = 10;  // of the inception score, as published

/// What to_pixels does: another rounding moves the distances.
constexpr const char* kQuantisation = "round((x + 1) * 127.5), clipped to 0..255";

/// At most kReferenceFeatures rows, evenly.
at::Tensor thinned(const at::Tensor& features) {
  const std::int64_t rows = features.size(0), kept = std::min(rows, kReferenceFeatures);
  return features.index_select(0, at::arange(kept, at::kLong).mul(rows).floor_divide(kept));
}

}  // namespace

void require_enough_samples(std::int64_t samples, std::int64_t dimension) {
  if (samples > dimension) return;
  throw RunError(
      fmt::format("{} samples are too few for features of {} dimensions: draw more than {}, better ten times "
                  "as many",
                  samples, dimension, dimension));
}

SampleScores score_samples(const SampleFeatures& samples, const ReferenceStatistics& reference,
                           const ExtractorIdentity& extractor, Thoroughness thoroughness) {
  const at::Tensor& features = samples.features;
  require_enough_samples(features.size(0), features.size(1));
  SampleScores scores{.samples = features.size(0),
                      .samples_sha256 = samples.sha256,
                      .extractor = extractor,
                      .reference_dataset = reference.dataset,
                      .reference_images = reference.images};
  try {
    const FrechetReference frechet(reference.fit);
    scores.frechet = frechet.distance_to(fit_of(features));
    if (thoroughness == Thoroughness::thorough) {
      const auto points = extrapolation_points(features.size(0), features.size(1));
      if (!points.empty()) scores.extrapolated = extrapolated_distance(frechet, features, points);
    }
  } catch (const std::invalid_argument& error) {
    throw RunError(std::string("samples and reference cannot be compared: ") + error.what() +
                   "; look at the samples, and make the reference again with `perrin stats`");
  }
  if (reference.features.defined()) {
    scores.kernel = kernel_distance(features, reference.features);
    if (thoroughness == Thoroughness::thorough)
      scores.precision_recall = precision_recall(thinned(features), reference.features);
  }
  if (samples.probabilities.defined()) scores.inception = inception_score(samples.probabilities, kSplits);
  return scores;
}

nlohmann::ordered_json to_json(const SampleScores& scores) {
  const std::string& prefix = scores.extractor.prefix;
  nlohmann::ordered_json json = {{"n", scores.samples}, {prefix + "fid", scores.frechet}};
  if (scores.extrapolated) json[prefix + "fid_infinity"] = scores.extrapolated->distance;
  if (scores.kernel) {
    json[prefix + "kid"] = scores.kernel->mean;
    json[prefix + "kid_deviation"] = scores.kernel->deviation;
    json["kid_subsets"] = scores.kernel->subsets;
    json["kid_subset_size"] = scores.kernel->subset_size;
  }
  if (scores.inception) {
    json[prefix + "is"] = scores.inception->mean;
    json[prefix + "is_deviation"] = scores.inception->deviation;
  }
  if (scores.precision_recall) {
    json[prefix + "precision"] = scores.precision_recall->precision;
    json[prefix + "recall"] = scores.precision_recall->recall;
  }
  json.update({{"extractor", scores.extractor.name},
               {"extractor_sha256", scores.extractor.sha256},
               {"preprocessing", scores.extractor.preprocessing},
               {"quantisation", kQuantisation},
               {"reference_fingerprint", scores.reference_dataset},
               {"reference_images", scores.reference_images},
               {"samples_sha256", scores.samples_sha256}});
  return json;
}

std::string summary(const SampleScores& scores) {
  const std::string& prefix = scores.extractor.prefix;
  std::string text = fmt::format("{}fid {:.4f} of {} samples", prefix, scores.frechet, scores.samples);
  if (scores.extrapolated) text += fmt::format(" ({:.4f} of infinitely many)", scores.extrapolated->distance);
  if (scores.kernel)
    text += fmt::format(", {}kid {:.6f} +- {:.6f}", prefix, scores.kernel->mean, scores.kernel->deviation);
  if (scores.inception) text += fmt::format(", {}is {:.3f}", prefix, scores.inception->mean);
  if (scores.precision_recall)
    text += fmt::format(", precision {:.4f}, recall {:.4f}", scores.precision_recall->precision,
                        scores.precision_recall->recall);
  return text;
}

}  // namespace perrin::trainer
