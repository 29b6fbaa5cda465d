#include "trainer/evaluate/sample_scorer.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/file.hpp"
#include "data/sha256.hpp"
#include "trainer/evaluate/batch_journal.hpp"
#include "trainer/run_error.hpp"

namespace perrin::trainer {
namespace {

constexpr const char *kJournalPrefix = "samples-step-", *kJournalSuffix = ".part";

std::string journal_prefix(std::int64_t step) { return fmt::format("{}{:08}", kJournalPrefix, step); }

std::filesystem::path reference_of(const Config& config) {
  const std::string& path = config.evaluate.reference.empty() ? config.data.train : config.evaluate.reference;
  if (path.empty())
    throw RunError(
        "samples are compared with a reference, and there is none; name a dataset, or statistics that "
        "`perrin stats` made, in evaluate.reference (--reference)");
  return path;
}

}  // namespace

SampleScorer::SampleScorer(const Config& config, std::string resolved_config, const data::ImageShape& shape,
                           std::filesystem::path folder, at::Device device)
    : config_(config),
      resolved_config_(std::move(resolved_config)),
      shape_(shape),
      folder_(std::move(folder)),
      reference_path_(reference_of(config)),
      device_(device),
      extractor_(open_extractor(config.evaluate.extractor, config.evaluate.extractor_sha256, device)) {
  const at::Tensor probe = at::zeros({1, shape.channels, shape.height, shape.width}, at::kByte);
  require_enough_samples(config.evaluate.samples, extractor_->extract(probe).features.size(1));
  require_reference(reference_path_, shape, *extractor_);
}

std::optional<SampleFeatures> SampleScorer::draw(const UNet& model, const ScoredWeights& weights,
                                                 comm::Communicator& control, bool keep_images, const Narrator& narrate,
                                                 const Interrupt& interrupt) {
  if (!reference_) reference_ = reference_at(reference_path_, folder_, *extractor_, control, narrate, interrupt);
  if (!reference_) return std::nullopt;
  const SampleRequest request{.samples = config_.evaluate.samples,
                              .journal = journal_of(weights),
                              .key = key_of(weights),
                              .keep_images = keep_images};
  return sample_features(model, config_, shape_, *extractor_, request, control, device_, narrate, interrupt);
}

SampleScores SampleScorer::scores(const SampleFeatures& samples, Thoroughness thoroughness) const {
  return score_samples(samples, *reference_, extractor_->identity(), thoroughness);
}

nlohmann::ordered_json SampleScorer::report(const SampleScores& scores, const ScoredWeights& weights) const {
  const SampleConfig& sample = config_.sample;
  nlohmann::ordered_json report = {{"step", weights.step},
                                   {"weights", weights.name},
                                   {"weights_sha256", weights.sha256},
                                   {"sampler", name_of(sample.sampler)},
                                   {"steps", sample.steps == 0 ? config_.diffusion.timesteps : sample.steps},
                                   {"guidance", sample.guidance},
                                   {"seed", sample.seed}};
  report.update(to_json(scores));
  return report;
}

void SampleScorer::keep(const nlohmann::ordered_json& report, const ScoredWeights& weights) const {
  data::write_file_durably(report_of(weights), report.dump(2) + "\n");
  const std::string own = journal_of(weights).filename().string(), newest = journal_prefix(weights.step);
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    // Names of the same length sort by the step.
    const bool superseded = name.size() == own.size() && name.starts_with(kJournalPrefix) &&
                            name.ends_with(kJournalSuffix) && name < newest;
    if (name == own || superseded) BatchJournal::remove_abandoned(entry.path());
  }
}

std::optional<nlohmann::ordered_json> SampleScorer::kept(const ScoredWeights& weights) const {
  std::ifstream file(report_of(weights));
  const auto report = nlohmann::ordered_json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!report.is_object() || report.value("weights_sha256", "") != weights.sha256 ||
      report.value("n", std::int64_t{0}) != config_.evaluate.samples)
    return std::nullopt;
  return report;
}

std::filesystem::path SampleScorer::journal_of(const ScoredWeights& weights) const {
  return folder_ /
         (journal_prefix(weights.step) + "-" + data::sha256_hex(key_of(weights)).substr(0, 16) + kJournalSuffix);
}

std::string SampleScorer::key_of(const ScoredWeights& weights) const {
  return resolved_config_ + "\nweights " + weights.sha256;
}

std::filesystem::path SampleScorer::report_of(const ScoredWeights& weights) const {
  return folder_ / fmt::format("samples-step-{:08}.json", weights.step);
}

}  // namespace perrin::trainer
