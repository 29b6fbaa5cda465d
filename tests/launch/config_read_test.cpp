#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "launch/config/read.hpp"

namespace perrin::launch {
namespace {

using testing::HasSubstr;

/// What the reader says about a text; empty if it takes it.
std::string complaint(const std::string& toml, const std::vector<Override>& overrides = {}) {
  try {
    read_config_text(toml, "run.toml", overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(ReadConfig, AnEmptyTextGivesTheDefaults) {
  const trainer::Config config = read_config_text("", "run.toml");
  EXPECT_EQ(config.train.batch_size, 128);
  EXPECT_EQ(config.optimizer.lr, 2e-4);
  EXPECT_EQ(config.ema.decays, std::vector<double>{0.9999});
}

TEST(ReadConfig, EveryKindOfValueArrives) {
  const trainer::Config config = read_config_text(
      "run.directory = 'a b'\n[data]\nhorizontal_flip = true\n[model]\nblock_out_channels = [32, 64]\nnorm_num_groups "
      "= 8\n"
      "[train]\nsteps = 1_000\n[optimizer]\nlr = 1\nschedule = \"cosine\"\n[ema]\ndecays = [0.5, 0]\n",
      "run.toml");
  EXPECT_EQ(config.run.directory, "a b");
  EXPECT_TRUE(config.data.horizontal_flip);
  EXPECT_EQ(config.model.block_out_channels, (std::vector<std::int64_t>{32, 64}));
  EXPECT_EQ(config.train.steps, 1000);
  EXPECT_EQ(config.optimizer.lr, 1.0) << "an integer is a number";
  EXPECT_EQ(config.optimizer.schedule, trainer::LrSchedule::cosine);
  EXPECT_EQ(config.ema.decays, (std::vector<double>{0.5, 0}));
}

struct BadText {
  std::string name;
  std::string toml;
  std::string complaint;
};

class BadConfig : public testing::TestWithParam<BadText> {};

TEST_P(BadConfig, IsRefusedWithItsLine) { EXPECT_THAT(complaint(GetParam().toml), HasSubstr(GetParam().complaint)); }

INSTANTIATE_TEST_SUITE_P(
    All, BadConfig,
    testing::Values(
        BadText{"MistypedKey", "[optimizer]\n\nlrr = 1e-4\n",
                "run.toml:3: unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'?"},
        BadText{"SwappedLetters", "[train]\nbathc_size = 4\n",
                "run.toml:2: unknown key 'train.bathc_size'; did you mean 'train.batch_size'?"},
        BadText{"LongForm", "[optimizer]\nlearning_rate = 1e-4\n",
                "run.toml:2: unknown key 'optimizer.learning_rate'; did you mean 'optimizer.lr'?"},
        BadText{"WrongSection", "[train]\nlr = 1e-4\n",
                "run.toml:2: unknown key 'train.lr'; did you mean 'optimizer.lr'?"},
        BadText{"NoSection", "batch_size = 3\n",
                "run.toml:1: unknown key 'batch_size'; did you mean 'train.batch_size'?"},
        BadText{"KeyNearNothing", "[ema]\nxylophone = 3\n",
                "run.toml:2: unknown key 'ema.xylophone'; the keys of [ema] are decays, warmup"},
        BadText{"UnknownSection", "[optimiser]\nlr = 1e-4\n",
                "run.toml:1: unknown section [optimiser]; did you mean [optimizer]?"},
        BadText{"SectionNearNothing", "\n[xylophone]\n",
                "run.toml:2: unknown section [xylophone]; the sections are run, data"},
        BadText{"NestedSection", "[optimizer.adam]\nlr = 1e-4\n", "run.toml:1: unknown key 'optimizer.adam'"},
        BadText{"SectionAsValue", "optimizer = 3\n",
                "run.toml:1: 'optimizer' is a section: write [optimizer], got the integer 3"},
        BadText{"SectionAsList", "[[optimizer]]\nlr = 1.0\n",
                "'optimizer' is a section: write [optimizer], got an array"},
        BadText{"TextForInteger", "[train]\nsteps = \"5\"\n",
                "run.toml:2: 'train.steps' must be an integer, got the string \"5\""},
        BadText{"NumberForInteger", "[train]\nsteps = 1e5\n",
                "'train.steps' must be an integer, got the floating-point number 1e5 (as an integer: 100000)"},
        BadText{"TextForNumber", "[optimizer]\nlr = \"fast\"\n",
                "'optimizer.lr' must be a number, got the string \"fast\""},
        BadText{"IntegerForBoolean", "[ema]\nwarmup = 1\n", "'ema.warmup' must be true or false, got the integer 1"},
        BadText{"IntegerForText", "[run]\ndirectory = 1\n", "'run.directory' must be a string, got the integer 1"},
        BadText{"IntegerForChoice", "[optimizer]\nschedule = 1\n",
                "'optimizer.schedule' must be one of \"constant\", \"cosine\", got the integer 1"},
        BadText{"NumberForList", "[ema]\ndecays = 0.9\n",
                "'ema.decays' must be a list of numbers, got the floating-point number 0.9"},
        BadText{"TextInList", "[ema]\ndecays = [0.9, \"a\"]\n",
                "'ema.decays' must be a list of numbers, got the string \"a\""},
        BadText{"NumberInIntegers", "[model]\nblock_out_channels = [32.0]\n",
                "must be a list of integers, got the floating-point"},
        BadText{"TableForNumber", "[optimizer.lr]\n", "'optimizer.lr' must be a number, got a table"},
        BadText{"DateForNumber", "[optimizer]\nlr = 1979-05-27\n",
                "'optimizer.lr' must be a number, got a date or time"},
        BadText{"UnknownChoice", "[optimizer]\nschedule = \"cosin\"\n",
                "must be one of \"constant\", \"cosine\", got \"cosin\"; did you mean \"cosine\"?"},
        BadText{"BelowRange", "[train]\nbatch_size = 0\n", "run.toml:2: 'train.batch_size' must be at least 1, got 0"},
        BadText{"NegativeSeed", "[run]\nseed = -1\n", "'run.seed' must be at least 0, got -1"},
        BadText{"OpenEnd", "[optimizer]\nbeta2 = 1.0\n", "'optimizer.beta2' must be at least 0 and below 1, got 1.0"},
        BadText{"OpenBegin", "[optimizer]\nlr = 0\n", "'optimizer.lr' must be above 0, got 0.0"},
        BadText{"NotANumber", "[optimizer]\nlr = nan\n", "'optimizer.lr' must be above 0, got nan"},
        BadText{"Infinite", "[optimizer]\nlr = inf\n", "'optimizer.lr' must be above 0, got inf"},
        BadText{"InfiniteClip", "[optimizer]\nclip_norm = inf\n", "'optimizer.clip_norm' must be at least 0, got inf"},
        BadText{"RangeOfListEntry", "[ema]\ndecays = [0.9, 1.5]\n",
                "'ema.decays' must be at least 0 and below 1, got 1.5"},
        BadText{"EmptyList", "[ema]\ndecays = []\n", "'ema.decays' must not be empty"},
        BadText{"ScoresWithoutSamples", "[evaluate]\nsamples_every = 100\n",
                "evaluate.samples = 0 draws none; say how many"},
        BadText{"EmptyText", "[run]\ndirectory = \"\"\n", "'run.directory' must not be empty"},
        BadText{"ControlCharacter", "[run]\ndirectory = \"a\\nb\"\n", "'run.directory' holds a control character"},
        BadText{"StepsBeyondTheRandomKey", "[train]\nsteps = 16777217\n", "must be at least 1 and at most 16777216"},
        BadText{"NotToml", "[run]\ndirectory = \n", "run.toml:2: not valid TOML: "},
        BadText{"KeyTwice", "[run]\nseed = 1\nseed = 2\n", "run.toml:3: not valid TOML: "},
        BadText{"GroupsDoNotDivide", "[model]\nblock_out_channels = [32, 60]\nnorm_num_groups = 8\n",
                "run.toml:2: 'model.block_out_channels' holds 60, which model.norm_num_groups = 8 does not divide"},
        BadText{"OddEmbedding", "[model]\nblock_out_channels = [3]\nnorm_num_groups = 3\n",
                "begins with 3; it must be even"},
        BadText{"BetasFall", "[diffusion]\nbeta_start = 0.03\n",
                "'diffusion.beta_end' = 0.02 is below diffusion.beta_start = 0.03"},
        BadText{"MicroBatchTooLarge", "[train]\nbatch_size = 8\nmicro_batch = 9\n",
                "run.toml:3: 'train.micro_batch' = 9 is more than train.batch_size = 8"},
        BadText{"DecayTwice", "[ema]\ndecays = [0.9, 0.9]\n",
                "run.toml:2: 'ema.decays' = [0.9, 0.9] holds the same decay twice"},
        BadText{"NoTimesteps", "[diffusion]\ntimesteps = 0\n", "'diffusion.timesteps' must be at least 1"},
        BadText{"BetaOfOne", "[diffusion]\nbeta_end = 1.0\n", "'diffusion.beta_end' must be above 0 and below 1"},
        BadText{"ListedBetaOfZero", "[diffusion]\nbeta_schedule = \"list\"\nbetas = [0.0]\n",
                "'diffusion.betas' must be above 0 and below 1"},
        BadText{"ListWithoutBetas", "[diffusion]\nbeta_schedule = \"list\"\n", "give one beta for each timestep"},
        BadText{"BetasWithoutList", "[diffusion]\nbetas = [0.1]\n",
                "run.toml:2: 'diffusion.betas' is given, but not used: set diffusion.beta_schedule = \"list\""},
        BadText{"TooFewBetas", "[diffusion]\nbeta_schedule = \"list\"\nbetas = [0.1, 0.2]\ntimesteps = 3\n",
                "holds 2 betas for diffusion.timesteps = 3"},
        BadText{"EpsilonOfPureNoise", "[diffusion]\nzero_terminal_snr = true\n",
                "set diffusion.prediction = \"v\" or \"x0\""},
        BadText{"UntrainedVariance", "[diffusion]\nvariance_type = \"learned_range\"\n",
                "does not train the variance of diffusion.variance_type = \"learned_range\"; choose \"hybrid\""},
        BadText{"HybridOfAFixedVariance", "[objective]\nloss = \"hybrid\"\n",
                "set diffusion.variance_type = \"learned_range\""},
        BadText{"WeightsOfNothing", "[objective]\nloss = \"vlb\"\nmin_snr_gamma = 5.0\n", "set it to 0"},
        BadText{"EdmBound", "[diffusion]\nprediction = \"edm\"\n[objective]\nloss = \"vlb\"\n",
                "only \"simple\" is defined"},
        BadText{"EdmImportance", "[diffusion]\nprediction = \"edm\"\n[objective]\ntimesteps = \"importance\"\n",
                "choose uniform or stratified"},
        BadText{"EdmLearnedVariance", "[diffusion]\nprediction = \"edm\"\nvariance_type = \"learned_range\"\n",
                "choose fixed_small or fixed_large"},
        BadText{"TwoCountsOfHeads", "[model]\nattention_heads = 4\nattention_head_dim = 64\n",
                "one decides, the other is 0"},
        BadText{"LabelDropoutWithoutLabels", "[model]\nlabel_dropout = 0.1\n", "set model.num_classes"},
        BadText{"GuidanceWithoutClasses", "[sample]\nguidance = 2.0\n", "the model has none (model.num_classes = 0)"},
        BadText{"GuidanceWithoutDropout", "[model]\nnum_classes = 10\n[sample]\nguidance = 2.0\n",
                "train with model.label_dropout = 0.1, say, or set it to 1"},
        BadText{"ClassOutOfRange", "[model]\nnum_classes = 10\n[sample]\nclasses = [10]\n",
                "holds 10; the classes are 0 to 9"},
        BadText{"ClassesOfNone", "[sample]\nclasses = [1]\n", "the model has none (model.num_classes = 0)"},
        BadText{"HeunFromPureNoise",
                "[diffusion]\nprediction = \"v\"\nzero_terminal_snr = true\n[sample]\nsampler = \"heun\"\n",
                "cannot begin at the endless noise level"},
        BadText{"SigmasReversed", "[sample]\nsampler = \"heun\"\nsigma_min = 90.0\n", "is not below sample.sigma_max"},
        BadText{"WeightZeroAtPureNoise",
                "[diffusion]\nprediction = \"v\"\nzero_terminal_snr = true\n[objective]\nmin_snr_gamma = 5.0\n",
                "weighs the last timesteps of diffusion.zero_terminal_snr by almost 0"},
        BadText{"LeadingWithoutPureNoise",
                "[diffusion]\nprediction = \"v\"\nzero_terminal_snr = true\n[sample]\nspacing = \"leading\"\n",
                "choose trailing or linspace"},
        BadText{"LeadingWithoutTheEnd", "[diffusion]\ntimesteps = 50\n[sample]\nsteps = 30\nspacing = \"leading\"\n",
                "begins at t = 29 of 50"},
        BadText{"SharedGpuOnTheCpu", "[distributed]\nshare_gpu = true\ndevice = \"cpu\"\n", "shares no GPU"},
        BadText{"ShardsOfNoTree", "[distributed]\nreduction = \"reproducible\"\nshards = 12\n", "is no power of two"},
        BadText{"MoreShardsThanImages",
                "[distributed]\nreduction = \"reproducible\"\nshards = 16\n[train]\nbatch_size = 8\n",
                "is more than train.batch_size = 8"},
        BadText{"ShardsAndMicroBatches", "[distributed]\nreduction = \"reproducible\"\n[train]\nmicro_batch = 4\n",
                "raise distributed.shards"},
        BadText{"RoundedReproducibleSums", "[distributed]\nreduction = \"reproducible\"\nwire = \"bf16\"\n",
                "run.toml:3: 'distributed.wire' = \"bf16\" rounds the sum of each rank"},
        BadText{"WidthTwice", "[ema]\npower_sigmas = [0.1, 0.1]\n", "holds the same width twice"},
        BadText{"EmptyChurn", "[sample]\nchurn_min = 2.0\nchurn_max = 1.0\n", "is above sample.churn_max = 1.0"},
        BadText{"EmptyGuidance", "[sample]\nguidance_sigma_min = 2.0\nguidance_sigma_max = 1.0\n",
                "is not below sample.guidance_sigma_max = 1.0"},
        BadText{"SnapshotsOfNothing", "[ema]\nsnapshot_every = 100\n", "name their widths in ema.power_sigmas"},
        BadText{"MoreDdimStepsThanTimesteps", "[diffusion]\ntimesteps = 20\n",
                "'sample.steps' = 50 is more than diffusion.timesteps = 20"}),
    [](const auto& test) { return test.param.name; });

TEST(ReadConfig, AnErrorCarriesPlaceAndKey) {
  try {
    read_config_text("[train]\nstpes = 1\n", "a/b.toml");
    FAIL() << "taken";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.place(), "a/b.toml:2");
    EXPECT_EQ(error.key(), "train.stpes");
  }
}

TEST(Overrides, ComeAfterTheFileAndTheLastOneStays) {
  const auto config = read_config_text("[optimizer]\nlr = 1e-3\n", "run.toml",
                                       {{"optimizer.lr", "1e-4"}, {"train.steps", "7"}, {"train.steps", "8"}});
  EXPECT_EQ(config.optimizer.lr, 1e-4);
  EXPECT_EQ(config.train.steps, 8);
}

TEST(Overrides, TakeListsChoicesAndTextsWithOrWithoutQuotes) {
  const auto config = read_config_text("", "run.toml",
                                       {{"ema.decays", "[0.99,0.999]"},
                                        {"optimizer.schedule", "cosine"},
                                        {"run.directory", "runs/a=b c"},
                                        {"data.train", "\"d\""},
                                        {"data.horizontal_flip", "true"}});
  EXPECT_EQ(config.ema.decays, (std::vector<double>{0.99, 0.999}));
  EXPECT_EQ(config.optimizer.schedule, trainer::LrSchedule::cosine);
  EXPECT_EQ(config.run.directory, "runs/a=b c");
  EXPECT_EQ(config.data.train, "d");
  EXPECT_TRUE(config.data.horizontal_flip);
}

TEST(Overrides, AreAsStrictAsTheFile) {
  EXPECT_EQ(complaint("", {{"optimizer.learning_rate", "1"}}),
            "command line: unknown key 'optimizer.learning_rate'; did you mean 'optimizer.lr'?");
  EXPECT_EQ(complaint("", {{"train.steps", "1.5"}}),
            "command line: 'train.steps' must be an integer, got the floating-point number 1.5");
  EXPECT_EQ(complaint("", {{"train.steps", "many"}}), "command line: 'train.steps' must be an integer, got 'many'");
  EXPECT_EQ(complaint("", {{"train.steps", ""}}), "command line: 'train.steps' must be an integer, got ''");
  EXPECT_EQ(complaint("", {{"train.steps", "-1"}}),
            "command line: 'train.steps' must be at least 1 and at most 16777216, got -1");
  EXPECT_EQ(complaint("", {{"train.steps", "1\n[ema]\nwarmup = true"}}),
            "command line: 'train.steps' must be an integer, got '1\n[ema]\nwarmup = true'");
  EXPECT_EQ(complaint("", {{"optimizer.schedule", "step"}}),
            "command line: 'optimizer.schedule' must be one of \"constant\", \"cosine\", got \"step\"");
  EXPECT_EQ(complaint("", {{"run.directory", ""}}), "command line: 'run.directory' must not be empty");
}

TEST(Overrides, AreBlamedForWhatTheyBreak) {
  EXPECT_THAT(complaint("[train]\nmicro_batch = 4\n", {{"train.micro_batch", "999"}}),
              HasSubstr("command line: 'train.micro_batch' = 999 is more than"));
}

TEST(TakeOverrides, LeavesTheOtherArgumentsInTheirOrder) {
  std::vector<std::string> arguments = {"train",     "--train.steps",       "5",  "a.toml",
                                        "--dry-run", "--run.directory=x=y", "b.c"};
  const auto overrides = take_overrides(arguments);
  EXPECT_THAT(arguments, testing::ElementsAre("train", "a.toml", "--dry-run", "b.c"));
  ASSERT_EQ(overrides.size(), 2u);
  EXPECT_EQ(overrides[0].name, "train.steps");
  EXPECT_EQ(overrides[0].value, "5");
  EXPECT_EQ(overrides[1].name, "run.directory");
  EXPECT_EQ(overrides[1].value, "x=y");
}

TEST(TakeOverrides, AValueMayBeNegativeButNotAnotherOption) {
  std::vector<std::string> negative = {"--optimizer.lr", "-1"};
  EXPECT_EQ(take_overrides(negative).front().value, "-1");
  std::vector<std::string> another = {"--optimizer.lr", "--dry-run"};
  EXPECT_THROW(take_overrides(another), ConfigError);
  std::vector<std::string> last = {"--optimizer.lr"};
  EXPECT_THROW(take_overrides(last), ConfigError);
}

TEST(ReadConfigFile, AMissingFileOrAFolderIsNamed) {
  try {
    read_config("/nowhere/run.toml");
    FAIL() << "read";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "/nowhere/run.toml: cannot read the configuration: No such file or directory");
  }
  try {
    read_config("/tmp");
    FAIL() << "read";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("is a folder"));
  }
}

}  // namespace
}  // namespace perrin::launch
