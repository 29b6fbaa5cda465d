#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "launch/config/check.hpp"
#include "launch/config/key_table.hpp"
#include "launch/config/nearest_name.hpp"
#include "launch/config/read.hpp"
#include "launch/config/reference.hpp"
#include "launch/config/resolved.hpp"
#include "launch/config/resume.hpp"

namespace perrin::launch {
namespace {

using testing::HasSubstr;

const std::filesystem::path kSource = PERRIN_SOURCE_DIR;

/// Another value that the key accepts.
Value another_value(const Key& key) {
  const trainer::Config defaults;
  const Value value = key.get(defaults);
  switch (key.type) {
    case KeyType::boolean:
      return !std::get<bool>(value);
    case KeyType::integer:
      for (const std::int64_t step : {2, 1, -1}) {
        const std::int64_t other = std::get<std::int64_t>(value) + step;
        if (key.range.contains(static_cast<double>(other))) return other;
      }
      break;
    case KeyType::number:
      return std::get<double>(value) * 0.5 + (std::get<double>(value) == 0 ? 0.25 : 0.0);
    case KeyType::text:
      return std::get<std::string>(value) + "other \"quoted\" \\ \u00e9";
    case KeyType::choice:
      return value == Value(key.choices[0]) ? key.choices[1] : key.choices[0];
    case KeyType::integers:
      return std::vector<std::int64_t>{64, 32};
    case KeyType::numbers:
      return std::vector<double>{0.1, 0.25};
  }
  throw std::logic_error("a key has no type, or no other value");
}

/// The defaults with another value for one key, and with what that value asks of other keys.
trainer::Config with_another_value(const Key& key) {
  trainer::Config config;
  config.train.batch_size = 100;
  if (key.name == "model.norm_num_groups") config.model.block_out_channels = {34};
  if (key.name == "model.attention_head_dim") config.model.block_out_channels = {128};
  if (key.name == "model.label_dropout" || key.name == "sample.classes") config.model.num_classes = 100;
  if (key.name == "sample.guidance") {
    config.model.num_classes = 100;
    config.model.label_dropout = 0.1;
  }
  if (key.name == "diffusion.betas") {
    config.diffusion.beta_schedule = trainer::BetaSchedule::listed;
    config.diffusion.timesteps = config.sample.steps = 2;
  }
  if (key.name == "diffusion.zero_terminal_snr") config.diffusion.prediction = trainer::PredictionType::v;
  if (key.name == "sample.guidance_sigma_min") config.sample.guidance_sigma_max = 10;
  if (key.name == "ema.snapshot_every") config.ema.power_sigmas = {0.1};
  if (key.name == "evaluate.samples_every") config.evaluate.samples = 1000;
  key.set(config, another_value(key));
  return config;
}

TEST(KeyTable, NamesAreUniqueDocumentedAndInAKnownSection) {
  std::set<std::string> names, sections;
  for (const Section& section : section_table()) sections.insert(section.name);
  for (const Key& key : key_table()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name;
    EXPECT_TRUE(sections.contains(std::string(key.section()))) << key.name;
    EXPECT_GT(key.documentation.size(), 10u) << key.name;
    EXPECT_EQ(key.documentation.back(), '.') << key.name;
    EXPECT_EQ(key.choices.empty(), key.type != KeyType::choice) << key.name;
  }
}

/// Stands for a member of any type, to count the members of an aggregate by how many it can be made from.
struct AnyMember {
  template <class T>
  operator T() const;
};

template <class Aggregate, class... Members>
constexpr std::size_t members_of() {
  if constexpr (requires { Aggregate{Members{}..., AnyMember{}}; }) {
    return members_of<Aggregate, Members..., AnyMember>();
  } else {
    return sizeof...(Members);
  }
}

TEST(KeyTable, CoversEveryMemberOfTheConfiguration) {
  using namespace trainer;
  EXPECT_EQ(section_table().size(), members_of<Config>());
  const std::size_t members = members_of<RunConfig>() + members_of<DataConfig>() + members_of<ModelConfig>() +
                              members_of<DiffusionConfig>() + members_of<EdmConfig>() + members_of<ObjectiveConfig>() +
                              members_of<TrainConfig>() + members_of<OptimizerConfig>() + members_of<EmaConfig>() +
                              members_of<CheckpointConfig>() + members_of<RecoveryConfig>() +
                              members_of<EvaluateConfig>() + members_of<SampleConfig>() +
                              members_of<DistributedConfig>();
  EXPECT_EQ(key_table().size(), members) << "a member of trainer/config.hpp has no row in launch/config/key_table.cpp";
}

TEST(KeyTable, EachKeyWritesItsOwnMember) {
  for (const Key& key : key_table()) {
    trainer::Config config;
    key.set(config, another_value(key));
    for (const Key& other : key_table()) {
      EXPECT_EQ(other.get(config) == other.get(trainer::Config{}), other.name != key.name)
          << key.name << ", " << other.name;
    }
  }
}

TEST(ResolvedToml, RoundTripsTheDefaults) {
  const std::string text = resolved_toml(trainer::Config{});
  EXPECT_EQ(resolved_toml(read_config_text(text, "resolved")), text);
}

TEST(ResolvedToml, RoundTripsEveryKey) {
  for (const Key& key : key_table()) {
    if (key.name == "model.block_out_channels") continue;  // below, with groups that divide it
    const trainer::Config config = with_another_value(key);
    const std::string text = resolved_toml(config);
    const trainer::Config back = read_config_text(text, "resolved");
    for (const Key& other : key_table())
      EXPECT_EQ(other.get(back), other.get(config)) << key.name << ", " << other.name;
  }
}

TEST(ResolvedToml, RoundTripsNumbersBitForBit) {
  for (const double number :
       {0.1, 1.0 / 3, 2e-4, 1e-300, 5e-324, 1.7976931348623157e308, 1e22, 123456789012345680.0, 3.0}) {
    trainer::Config config;
    config.optimizer.lr = number;
    config.model.block_out_channels = {32, 96};
    EXPECT_EQ(read_config_text(resolved_toml(config), "resolved").optimizer.lr, number);
    EXPECT_EQ(read_config_text(resolved_toml(config), "resolved").model.block_out_channels,
              config.model.block_out_channels);
  }
}

TEST(ResolvedToml, RoundTripsTheLargestSeed) {
  trainer::Config config;
  config.run.seed = (std::uint64_t{1} << 63) - 1;
  EXPECT_EQ(read_config_text(resolved_toml(config), "resolved").run.seed, config.run.seed);
}

TEST(Resume, EveryKeyIsEitherFreeOrRefusedWithBothValues) {
  const std::set<std::string> free = {"run.directory",
                                      "data.train",
                                      "data.heldout",
                                      "data.read",
                                      "data.verify",
                                      "data.resident",
                                      "data.warm_up",
                                      "data.threads",
                                      "train.steps",
                                      "train.precision",
                                      "train.micro_batch",
                                      "train.max_minutes",
                                      "train.log_every",
                                      "train.evaluate_every",
                                      "train.sample_every",
                                      "optimizer.shard",
                                      "checkpoint.every",
                                      "checkpoint.every_minutes",
                                      "checkpoint.keep",
                                      "checkpoint.keep_every",
                                      "checkpoint.keep_best",
                                      "checkpoint.grace_seconds",
                                      "checkpoint.most_failures",
                                      "recovery.most_skipped",
                                      "recovery.loss_z_score",
                                      "recovery.most_rollbacks",
                                      "evaluate.batch_size",
                                      "evaluate.samples",
                                      "evaluate.samples_every",
                                      "evaluate.reference",
                                      "evaluate.extractor",
                                      "evaluate.extractor_sha256",
                                      "ema.snapshot_every",
                                      "sample.sampler",
                                      "sample.steps",
                                      "sample.spacing",
                                      "sample.eta",
                                      "sample.clip",
                                      "sample.clip_percentile",
                                      "sample.guidance",
                                      "sample.guidance_sigma_min",
                                      "sample.guidance_sigma_max",
                                      "sample.classes",
                                      "sample.sigma_min",
                                      "sample.sigma_max",
                                      "sample.rho",
                                      "sample.churn",
                                      "sample.churn_min",
                                      "sample.churn_max",
                                      "sample.churn_noise",
                                      "sample.rows",
                                      "sample.columns",
                                      "sample.seed",
                                      "sample.batch_size",
                                      "distributed.device",
                                      "distributed.share_gpu",
                                      "distributed.threads",
                                      "distributed.bucket_mib",
                                      "distributed.overlap",
                                      "distributed.timeout_seconds",
                                      "distributed.check_collectives"};
  for (const Key& key : key_table()) {
    trainer::Config before, after;
    key.set(after, another_value(key));
    const auto refused = changes_refused_on_resume(before, after);
    if (free.contains(key.name)) {
      EXPECT_TRUE(refused.empty()) << key.name;
      EXPECT_NO_THROW(refuse_changes_on_resume(before, after, "config.toml"));
    } else {
      ASSERT_EQ(refused.size(), 1u) << key.name;
      EXPECT_EQ(refused[0].name, key.name);
      EXPECT_EQ(refused[0].before, to_toml(key.get(before)));
      EXPECT_EQ(refused[0].after, to_toml(key.get(after)));
    }
  }
}

TEST(Resume, TheErrorNamesTheChangesAndWhatMayChange) {
  trainer::Config before, after;
  after.optimizer.lr = 1e-3;
  after.train.batch_size = 64;
  after.train.steps = 7;
  try {
    refuse_changes_on_resume(before, after, "runs/a/config.toml");
    FAIL() << "taken";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.place(), "runs/a/config.toml");
    EXPECT_THAT(error.what(), HasSubstr("train.batch_size: was 128, now 64"));
    EXPECT_THAT(error.what(), HasSubstr("optimizer.lr: was 2e-4, now 0.001"));
    EXPECT_THAT(error.what(), testing::Not(HasSubstr("train.steps: was")));
    EXPECT_THAT(error.what(), HasSubstr("another run.directory"));
    EXPECT_THAT(error.what(), HasSubstr(" train.steps"));
  }
}

TEST(Check, AttentionAtAHeightWithoutALevelIsRefused) {
  trainer::ModelConfig model;
  EXPECT_NO_THROW(check_attention_resolutions(model, 32, "x"));
  model.attention_resolutions = {};
  EXPECT_NO_THROW(check_attention_resolutions(model, 28, "x"));
  model.attention_resolutions = {16, 12};
  try {
    check_attention_resolutions(model, 32, "x");
    FAIL() << "taken";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "x: 'model.attention_resolutions' holds 12, but the levels have the heights [32, 16, 8, 4]");
  }
}

const PlaceOf kSomewhere = [](std::string_view) { return "x"; };

TEST(Check, ABatchSmallerThanTheRanksIsRefused) {
  trainer::Config config;
  config.train.batch_size = 3;
  EXPECT_NO_THROW(check_ranks(config, 3, kSomewhere));
  EXPECT_THROW(check_ranks(config, 4, kSomewhere), ConfigError);
}

TEST(Check, RanksThatCannotShareTheTreeOfAReproducibleReductionAreRefused) {
  trainer::Config config;
  config.distributed.shards = 8;
  EXPECT_NO_THROW(check_ranks(config, 3, kSomewhere));
  config.distributed.reduction = trainer::Reduction::reproducible;
  for (const int ranks : {1, 2, 4, 8}) EXPECT_NO_THROW(check_ranks(config, ranks, kSomewhere));
  for (const int ranks : {3, 6, 16}) EXPECT_THROW(check_ranks(config, ranks, kSomewhere), ConfigError) << ranks;
}

TEST(NearestName, CountsEditsAndSwaps) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("abcd", "abdc"), 1u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
}

TEST(NearestName, FindsEveryKeyWithALetterMissing) {
  std::vector<std::string> names;
  for (const Key& key : key_table()) names.push_back(key.name);
  for (const Key& key : key_table()) {
    if (key.leaf().size() < 4) continue;  // "lr", "eps" and "eta" are near to many
    const std::string mistyped = std::string(key.section()) + "." + std::string(key.leaf().substr(1));
    EXPECT_EQ(nearest_name(mistyped, names), key.name);
  }
}

TEST(Presets, EveryOneParses) {
  int presets = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kSource / "configs")) {
    if (entry.path().extension() != ".toml") continue;
    EXPECT_NO_THROW(read_config(entry.path())) << entry.path();
    ++presets;
  }
  EXPECT_GE(presets, 2);
}

TEST(ConfigurationReference, IsUpToDate) {
  std::ifstream file(kSource / "docs" / "configuration.md", std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), configuration_reference()) << "run: cmake --build BUILD --target configuration_docs";
}

}  // namespace
}  // namespace perrin::launch
