#include "data/prepare.hpp"

#include <sys/wait.h>

#include <csignal>

#include "data/dataset.hpp"
#include "data/directory_lock.hpp"
#include "data/sample_order.hpp"
#include "data/sha256.hpp"
#include "data/shard_reader.hpp"
#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr ImageShape kShape{2, 3, 3};

TEST(Prepare, StoresEveryImageOnceInTheShuffledOrder) {
  const TemporaryFolder folder;
  const PatternSource source(2000, kShape);
  const PrepareOutcome outcome = prepare(source, {.output = folder / "set", .shard_images = 300, .shuffle_seed = 8});
  EXPECT_FALSE(outcome.was_there);
  EXPECT_EQ(outcome.manifest.shards.size(), 7u);
  EXPECT_EQ(outcome.manifest.shards.back().n, 200u);
  const Dataset dataset(folder / "set");
  std::vector<bool> seen(source.size());
  std::uint64_t unmoved = 0;
  for (std::uint64_t i = 0; i < dataset.size(); ++i) {
    const std::uint64_t id = dataset.source_id(i);
    ASSERT_FALSE(seen.at(id));
    seen[id] = true;
    unmoved += id == i ? 1 : 0;
  }
  EXPECT_LT(unmoved, 10u);  // 1 is expected
}

TEST(Prepare, TheOrderOnDiskIsNotThatOfARunWithTheSameSeed) {
  const TemporaryFolder folder;
  prepare(PatternSource(2000, kShape), {.output = folder / "set", .shuffle_seed = 8});
  const Dataset dataset(folder / "set");
  const SampleOrder order(2000, 8);
  std::uint64_t equal = 0;
  for (std::uint64_t i = 0; i < 2000; ++i) equal += dataset.source_id(i) == order.at(i) ? 1 : 0;
  EXPECT_LT(equal, 10u);
}

TEST(Prepare, ManifestHoldsSizeAndHashOfEveryShard) {
  const TemporaryFolder folder;
  const Manifest manifest =
      prepare(PatternSource(100, kShape), {.output = folder / "set", .shard_images = 40}).manifest;
  EXPECT_EQ(manifest, read_manifest(folder / "set"));
  for (const ShardEntry& shard : manifest.shards) {
    EXPECT_EQ(fs::file_size(folder / "set" / shard.path), shard.bytes);
    EXPECT_EQ(sha256_of_file(folder / "set" / shard.path), shard.sha256);
  }
}

TEST(Prepare, EqualInputGivesEqualBytes) {
  const TemporaryFolder folder;
  const PatternSource source(500, kShape);
  prepare(source, {.output = folder / "a", .shard_images = 100});
  ::sleep(1);  // a time stamp in the file would show
  prepare(source, {.output = folder / "b", .shard_images = 100});
  const auto names = names_in(folder / "a");
  ASSERT_EQ(names, names_in(folder / "b"));
  for (const std::string& name : names) {
    EXPECT_EQ(contents_of(folder / "a" / name), contents_of(folder / "b" / name)) << name;
  }
}

TEST(Prepare, TheSameDataSetIsNotWrittenAgain) {
  const TemporaryFolder folder;
  const PatternSource source(100, kShape);
  const PrepareOptions options{.output = folder / "set", .shard_images = 40};
  prepare(source, options);
  const auto time = fs::last_write_time(folder / "set/manifest.json");
  EXPECT_TRUE(prepare(source, options).was_there);
  EXPECT_EQ(fs::last_write_time(folder / "set/manifest.json"), time);
  EXPECT_THAT(names_in(folder.path()), ElementsAre("set"));
}

TEST(Prepare, NothingElseIsOverwritten) {
  const TemporaryFolder folder;
  const PatternSource source(100, kShape);
  prepare(source, {.output = folder / "set", .shuffle_seed = 1});
  const std::string manifest = contents_of(folder / "set/manifest.json");
  EXPECT_THAT(data_error_of([&] { prepare(source, {.output = folder / "set", .shuffle_seed = 2}); }),
              AllOf(HasSubstr("holds another dataset"), HasSubstr("nothing was overwritten")));
  EXPECT_EQ(contents_of(folder / "set/manifest.json"), manifest);

  fs::create_directories(folder / "home");
  write_contents(folder / "home/thesis.tex", "x");
  EXPECT_THAT(data_error_of([&] { prepare(source, {.output = folder / "home"}); }), HasSubstr("is not a dataset"));
  EXPECT_THAT(names_in(folder / "home"), ElementsAre("thesis.tex"));

  write_contents(folder / "file", "x");
  EXPECT_THAT(data_error_of([&] { prepare(source, {.output = folder / "file"}); }), HasSubstr("is not a dataset"));
  EXPECT_THAT(data_error_of([&] { prepare(source, {.output = folder / "file/set"}); }), HasSubstr("file"));
}

TEST(Prepare, ADamagedFinishedDataSetIsNamedNotRepaired) {
  const TemporaryFolder folder;
  const PatternSource source(100, kShape);
  prepare(source, {.output = folder / "set", .shard_images = 50});
  fs::resize_file(folder / "set/shard-00001.h5", 1000);
  EXPECT_THAT(data_error_of([&] { prepare(source, {.output = folder / "set", .shard_images = 50}); }),
              HasSubstr("shard-00001.h5: has 1000 of"));
}

TEST(Prepare, AnEmptyFolderAndATrailingSlashAreFine) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "deep/set");
  prepare(PatternSource(10, kShape), {.output = folder / "deep/set/"});
  EXPECT_EQ(Dataset(folder / "deep/set").size(), 10u);
  prepare(PatternSource(10, kShape), {.output = folder / "new/deeper/set"});
  EXPECT_EQ(Dataset(folder / "new/deeper/set").size(), 10u);
}

/// Fails half-way, as a damaged image would.
class FailingSource : public PatternSource {
 public:
  using PatternSource::PatternSource;
  void read(std::uint64_t, std::span<std::uint8_t>) const override { throw DataError("image", "is damaged"); }
};

TEST(Prepare, AFailureLeavesNothingBehind) {
  const TemporaryFolder folder;
  EXPECT_THROW(prepare(FailingSource(10, kShape), {.output = folder / "set"}), DataError);
  EXPECT_THAT(names_in(folder.path()), IsEmpty());
}

/// Counts what is read, so that work done twice shows.
class CountingSource : public PatternSource {
 public:
  using PatternSource::PatternSource;
  void read(std::uint64_t index, std::span<std::uint8_t> pixels) const override {
    ++reads;
    PatternSource::read(index, pixels);
  }
  mutable int reads = 0;
};

class InterruptedPrepare : public ::testing::Test {
 protected:
  /// Killed while the fourth of eight shards is written.
  void SetUp() override {
    const pid_t child = ::fork();
    if (child == 0) {
      prepare(source_, options_, [](std::uint64_t done, std::uint64_t) {
        if (done >= 200) ::raise(SIGKILL);
      });
      std::_Exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
  }

  std::string uninterrupted_fingerprint() {
    return fingerprint(prepare(source_, {.output = folder_ / "other", .shard_images = 50}).manifest);
  }

  const TemporaryFolder folder_;
  const PatternSource source_{400, kShape};
  const PrepareOptions options_{.output = folder_ / "set", .shard_images = 50};
};

TEST_F(InterruptedPrepare, LeavesNothingThatLooksFinishedAndGoesOnAfterTheWholeShards) {
  EXPECT_THAT(names_in(folder_.path()), ElementsAre(".set.lock", ".set.partial"));
  EXPECT_THAT(names_in(folder_ / ".set.partial"),
              ElementsAre("shard-00000.h5", "shard-00000.h5.sha256", "shard-00001.h5", "shard-00001.h5.sha256",
                          "shard-00002.h5", "shard-00002.h5.sha256", "shard-00003.h5.unfinished"));
  const CountingSource again(400, kShape);
  const PrepareOutcome outcome = prepare(again, options_);
  EXPECT_FALSE(outcome.was_there);
  EXPECT_EQ(again.reads, 250);
  EXPECT_THAT(names_in(folder_.path()), ElementsAre("set"));
  EXPECT_EQ(Dataset(folder_ / "set").size(), 400u);
  EXPECT_EQ(fingerprint(outcome.manifest), uninterrupted_fingerprint());
}

TEST_F(InterruptedPrepare, WritesAgainWhatWasDamagedSince) {
  const fs::path damaged = folder_ / ".set.partial/shard-00001.h5";
  flip_bit(damaged, ShardReader(damaged).layout().images_offset + 7);
  fs::resize_file(folder_ / ".set.partial/shard-00002.h5", 100);
  const CountingSource again(400, kShape);
  const PrepareOutcome outcome = prepare(again, options_);
  EXPECT_EQ(again.reads, 350);
  EXPECT_EQ(fingerprint(outcome.manifest), uninterrupted_fingerprint());
}

TEST_F(InterruptedPrepare, TrustsNoByteThatWasNotWrittenNotEvenPadding) {
  const fs::path damaged = folder_ / ".set.partial/shard-00001.h5";
  flip_bit(damaged, ShardReader(damaged).layout().images_offset - 1);  // between the header and the aligned images
  EXPECT_NO_THROW(ShardReader{damaged}) << "readers do not look there";
  fs::remove(folder_ / ".set.partial/shard-00002.h5.sha256");
  const CountingSource again(400, kShape);
  const PrepareOutcome outcome = prepare(again, options_);
  EXPECT_EQ(again.reads, 350);
  EXPECT_THAT(names_in(folder_ / "set"), Contains("shard-00007.h5"));
  EXPECT_EQ(fingerprint(outcome.manifest), uninterrupted_fingerprint());
}

TEST_F(InterruptedPrepare, LeavesNoShardBeyondTheLastOfALaterDivision) {
  prepare(source_, {.output = folder_ / "set", .shard_images = 300});
  EXPECT_THAT(names_in(folder_ / "set"), ElementsAre("manifest.json", "shard-00000.h5", "shard-00001.h5"));
}

TEST_F(InterruptedPrepare, IsFinishedByAnotherNumberOfProcesses) {
  const CountingSource again(400, kShape);
  Preparation first(again, options_, again.digest()), second(again, options_, again.digest()),
      third(again, options_, again.digest());
  EXPECT_FALSE(first.begin());
  std::vector<std::uint64_t> done;
  third.write({2, 3}, [&](std::uint64_t now) { done.push_back(now); });
  EXPECT_THAT(done, ElementsAre(50, 100));  // shards 2, there already, and 5
  second.write({1, 3}, [](std::uint64_t) {});
  first.write({0, 3}, [](std::uint64_t) {});
  const Manifest manifest = first.publish();
  EXPECT_EQ(again.reads, 250);
  EXPECT_EQ(fingerprint(manifest), uninterrupted_fingerprint());
  EXPECT_THAT(names_in(folder_.path()), ElementsAre("other", "set"));
}

TEST_F(InterruptedPrepare, KeepsNoShardOfAnotherDataSet) {
  const PrepareOptions others{.output = folder_ / "set", .shard_images = 50, .shuffle_seed = 1};
  const CountingSource again(400, kShape);
  prepare(again, others);
  EXPECT_EQ(again.reads, 400);
}

TEST(Prepare, PartsGiveTheFilesOfOneProcess) {
  const TemporaryFolder folder;
  const PatternSource source(400, kShape);
  prepare(source, {.output = folder / "alone", .shard_images = 70});
  const PrepareOptions options{.output = folder / "parts", .shard_images = 70};
  for (const std::uint64_t parts : {2, 4, 9}) {
    fs::remove_all(folder / "parts");
    Preparation preparation(source, options, source.digest());
    ASSERT_FALSE(preparation.begin());
    for (std::uint64_t part = parts; part-- > 0;) preparation.write({part, parts}, [](std::uint64_t) {});
    preparation.publish();
    ASSERT_EQ(names_in(folder / "alone"), names_in(folder / "parts"));
    for (const std::string& name : names_in(folder / "alone"))
      EXPECT_EQ(contents_of(folder / "alone" / name), contents_of(folder / "parts" / name)) << name;
  }
}

TEST(Prepare, AMissingPartIsNamedAndNothingIsPublished) {
  const TemporaryFolder folder;
  const PatternSource source(100, kShape);
  const PrepareOptions options{.output = folder / "set", .shard_images = 50};
  {
    Preparation preparation(source, options, source.digest());
    EXPECT_THAT(data_error_of([&] { preparation.write({1, 2}, [](std::uint64_t) {}); }), HasSubstr("on a file system"));
    ASSERT_FALSE(preparation.begin());
    preparation.write({1, 2}, [](std::uint64_t) {});
    EXPECT_THAT(data_error_of([&] { preparation.publish(); }), HasSubstr("shard-00000.h5: should have been written"));
  }
  EXPECT_THAT(names_in(folder.path()), ElementsAre(".set.partial"));
}

TEST(Prepare, KeepsTheOrderWhenAsked) {
  const TemporaryFolder folder;
  prepare(PatternSource(100, kShape),
          {.output = folder / "set", .shard_images = 40, .shuffle_seed = 5, .keep_order = true});
  const Dataset dataset(folder / "set");
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(dataset.source_id(i), i);
  EXPECT_EQ(dataset.manifest().shuffle_algorithm, "none");
  EXPECT_EQ(dataset.manifest().shuffle_seed, 0u);
}

TEST(Prepare, ClearsAwayOnlyItsOwnLeftovers) {
  const TemporaryFolder folder;
  fs::create_directories(folder / ".set.partial");
  write_contents(folder / ".set.partial/notes.txt", "x");
  EXPECT_THAT(data_error_of([&] { prepare(PatternSource(10, kShape), {.output = folder / "set"}); }),
              HasSubstr("notes.txt"));
  EXPECT_TRUE(fs::exists(folder / ".set.partial/notes.txt"));
}

TEST(Prepare, TwoAtOnceOnTheSameOutputAreRefused) {
  const TemporaryFolder folder;
  const DirectoryLock other(folder.path(), ".set.lock");
  EXPECT_THAT(data_error_of([&] { prepare(PatternSource(10, kShape), {.output = folder / "set"}); }),
              HasSubstr("in use by process"));
}

TEST(Prepare, PadsWithZerosAroundTheMiddle) {
  const TemporaryFolder folder;
  const PatternSource source(20, {2, 3, 4});
  prepare(source, {.output = folder / "set", .pad = 7});
  const Dataset dataset(folder / "set");
  ASSERT_EQ(dataset.shape(), (ImageShape{2, 7, 7}));
  EXPECT_EQ(dataset.manifest().transform, "pad 3x4 to 7x7 with 0");
  std::vector<std::uint8_t> image(24);
  std::vector<std::uint8_t> padded(98);
  for (std::uint64_t i = 0; i < 20; ++i) {
    dataset.read(i, padded);
    source.read(dataset.source_id(i), image);
    for (std::size_t c = 0; c < 2; ++c) {
      for (std::size_t y = 0; y < 7; ++y) {
        for (std::size_t x = 0; x < 7; ++x) {
          const bool inside = y >= 2 && y < 5 && x >= 1 && x < 5;
          EXPECT_EQ(padded[(c * 7 + y) * 7 + x], inside ? image[(c * 3 + y - 2) * 4 + x - 1] : 0);
        }
      }
    }
  }
  EXPECT_THAT(data_error_of([&] { prepare(source, {.output = folder / "small", .pad = 3}); }),
              HasSubstr("images of 3 x 4 cannot be padded to 3; choose a size from 4 on"));
}

TEST(Prepare, ReportsProgressUpToTheTotal) {
  const TemporaryFolder folder;
  std::vector<std::uint64_t> done;
  prepare(PatternSource(100, kShape), {.output = folder / "set", .shard_images = 30},
          [&](std::uint64_t now, std::uint64_t total) {
            EXPECT_EQ(total, 100u);
            done.push_back(now);
          });
  EXPECT_THAT(done, ElementsAre(30, 60, 90, 100));
}

}  // namespace
}  // namespace perrin::data::test
