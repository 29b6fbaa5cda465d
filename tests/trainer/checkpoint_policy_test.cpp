#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "tests/trainer/small_network.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/checkpoint_schedule.hpp"
#include "trainer/checkpoint/part_file.hpp"
#include "trainer/checkpoint/retention.hpp"
#include "trainer/checkpoint/state_parts.hpp"
#include "trainer/loss_spikes.hpp"
#include "trainer/run_error.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> names_of(const std::vector<fs::path>& paths) {
  std::vector<std::string> names;
  for (const fs::path& path : paths) names.push_back(path.filename().string());
  return names;
}

TEST(CheckpointName, IsReadAsItIsWritten) {
  for (const CheckpointName name : {CheckpointName{1, 0}, {1, 10}, {9999, 99'999'999}, {12345, 1'234'567'890}, {0, 7}})
    EXPECT_EQ(parse_checkpoint_name(checkpoint_path("run", name)), name) << checkpoint_path("run", name);
  EXPECT_EQ(checkpoint_path("run", {3, 1000}), "run/step-00001000-i0003");
  EXPECT_EQ(checkpoint_path("run", {0, 1000}), "run/step-00001000");
}

TEST(CheckpointName, OfAnythingElseIsNone) {
  for (const char* name : {"", "step", "step-", "step--1", "step-x", "step-1-", "step-1-i", "step-1-i-1", "step-1-i1x",
                           "step-1-i1.tmp", "step-1-i1.damaged", "step-1.tmp", "step-99999999999999999999",
                           "step-1-i9223372036854775807", "latest", "xstep-1", "step-1 "})
    EXPECT_EQ(parse_checkpoint_name(name), std::nullopt) << name;
}

TEST(Checkpoints, AreListedByIncarnationBeforeStep) {
  const perrin::test::TemporaryFolder folder;
  // Incarnation 2 went back to step 10: what 1 made beyond is an abandoned branch.
  for (const char* name : {"step-00000010-i0001", "step-00000030-i0001", "step-00000020-i0002", "step-00000010-i0010",
                           "step-00000040", "step-00000050-i0002.tmp", "step-00000060-i0002.damaged", "other"})
    fs::create_directories(folder.path() / name);
  std::ofstream(folder.path() / "step-00000070-i0011") << "a file is no checkpoint";
  EXPECT_THAT(names_of(list_checkpoints(folder.path())),
              ElementsAre("step-00000010-i0010", "step-00000020-i0002", "step-00000030-i0001", "step-00000010-i0001",
                          "step-00000040"));
  EXPECT_THAT(list_checkpoints(folder.path() / "none"), IsEmpty());
}

TEST(Unfinished, FoldersAndFilesGoAndNothingElse) {
  const perrin::test::TemporaryFolder folder;
  const fs::path whole = folder.path() / "step-00000010-i0001";
  fs::create_directories(whole);
  fs::create_directories(unfinished(folder.path() / "step-00000020-i0001"));
  std::ofstream(unfinished(folder.path() / "step-00000020-i0001") / "weights.safetensors") << "half";
  for (const char* name : {"latest", "latest.tmp.4711"}) std::ofstream(folder.path() / name) << "x";
  remove_unfinished(folder.path());
  remove_unfinished(folder.path() / "none");
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(folder.path())) left.push_back(entry.path().filename().string());
  EXPECT_THAT(left, testing::UnorderedElementsAre("step-00000010-i0001", "latest"));
}

TEST(StateParts, CoverEveryParameterOnceInOrder) {
  const ParameterLayout layout(test::parameters(), at::MemoryFormat::Contiguous);
  for (const std::size_t count : {1u, 2u, 3u, 4u, 6u, 17u}) {
    const auto parts = state_parts(layout, count);
    ASSERT_EQ(parts.size(), count);
    std::size_t next = 0;
    for (const StatePart& part : parts) {
      EXPECT_EQ(part.first_range, next);
      ASSERT_LE(part.first_range, part.last_range);
      next = part.last_range;
      if (part.first_range == part.last_range) {
        EXPECT_EQ(part.size(), 0);
        continue;
      }
      EXPECT_EQ(part.begin, layout.ranges()[part.first_range].offset);
      const auto& last = layout.ranges()[part.last_range - 1];
      EXPECT_EQ(part.end, last.offset + last.numel);
    }
    EXPECT_EQ(next, layout.ranges().size()) << count;
  }
}

TEST(StateParts, AreOfAboutEqualSize) {
  std::vector<ParameterSpec> specs;
  for (int i = 0; i < 100; ++i) specs.push_back({.name = std::to_string(i), .shape = {10 + i % 7, 16}});
  const ParameterLayout layout(specs, at::MemoryFormat::Contiguous);
  const std::int64_t largest = 16 * 16;
  for (const std::size_t count : {2u, 4u, 8u})
    for (const StatePart& part : state_parts(layout, count))
      EXPECT_NEAR(static_cast<double>(part.size()), static_cast<double>(layout.size()) / static_cast<double>(count),
                  largest);
}

TEST(PartFile, NamesTheBufferThatItIsOf) {
  EXPECT_EQ(part_file("weights", 0, 1), "weights.safetensors");
  EXPECT_EQ(part_file("ema-0", 1, 12), "ema-0-00002-of-00012.safetensors");
  for (const char* buffer : {"weights", "adam_m", "ema-0", "ema-12"})
    for (const std::size_t parts : {1u, 2u, 1000u}) EXPECT_EQ(buffer_of(part_file(buffer, parts - 1, parts)), buffer);
  EXPECT_EQ(buffer_of("loss_history.safetensors"), "loss_history");
  for (const char* name : {"", "x", ".safetensors", "-00001-of-00002", "weights-00001-of-0000x", "weights-1-of-2"})
    EXPECT_EQ(buffer_of(name), std::string(name) == ".safetensors" ? "" : name);
}

KeptCheckpoint kept(std::int64_t step, std::optional<double> loss = std::nullopt) {
  return {.path = "step-" + std::to_string(step), .step = step, .heldout_loss = loss};
}

TEST(Retention, KeepsTheLastTheMilestonesAndTheBest) {
  const std::vector<KeptCheckpoint> all = {kept(60, 0.5), kept(50),      kept(40, 0.2),
                                           kept(30, 0.3), kept(20, 0.1), kept(10, std::nan(""))};
  const auto gone = [&](const CheckpointConfig& config) { return names_of(superfluous(all, config)); };
  EXPECT_THAT(gone({.keep = 2, .keep_every = 0, .keep_best = false}),
              ElementsAre("step-40", "step-30", "step-20", "step-10"));
  EXPECT_THAT(gone({.keep = 2, .keep_every = 0, .keep_best = true}), ElementsAre("step-40", "step-30", "step-10"));
  EXPECT_THAT(gone({.keep = 1, .keep_every = 30, .keep_best = false}),
              ElementsAre("step-50", "step-40", "step-20", "step-10"));
  EXPECT_THAT(gone({.keep = 10, .keep_every = 0, .keep_best = true}), IsEmpty());
  EXPECT_THAT(superfluous({}, {}), IsEmpty());
  // Where none has a loss that is a number, none is the best.
  EXPECT_THAT(names_of(superfluous({kept(2), kept(1, std::nan(""))}, {.keep = 1})), ElementsAre("step-1"));
  // Of equal ones the newest.
  EXPECT_THAT(names_of(superfluous({kept(3), kept(2, 0.5), kept(1, 0.5)}, {.keep = 1})), ElementsAre("step-1"));
}

TEST(Retention, DoesNotCountABranchThatWasLeft) {
  // From 50 the run returned to 20.
  const std::vector<KeptCheckpoint> all = {kept(30), kept(20), kept(50), kept(40), kept(20), kept(10)};
  EXPECT_THAT(names_of(superfluous(all, {.keep = 3})), ElementsAre("step-50", "step-40", "step-20"));
  EXPECT_THAT(names_of(superfluous(all, {.keep = 1, .keep_every = 40})),
              ElementsAre("step-20", "step-50", "step-20", "step-10"));
}

TEST(Retention, LeavesWhatItCannotReadAndEndsRemovalsThatWereInterrupted) {
  const perrin::test::TemporaryFolder folder;
  for (std::int64_t step = 1; step <= 5; ++step) {
    const fs::path path = checkpoint_path(folder.path(), {1, step});
    fs::create_directories(path);
    CheckpointManifest manifest;
    manifest.progress.step = step;
    std::ofstream(path / CheckpointManifest::kFileName) << (step == 2 ? "not a manifest" : to_json(manifest));
  }
  fs::create_directories(unfinished(checkpoint_path(folder.path(), {1, 0})));
  remove_superfluous(folder.path(), {.keep = 2});
  EXPECT_THAT(names_of(list_checkpoints(folder.path())),
              ElementsAre("step-00000005-i0001", "step-00000004-i0001", "step-00000002-i0001"));
  EXPECT_FALSE(fs::exists(unfinished(checkpoint_path(folder.path(), {1, 0}))));
}

TEST(CheckpointSchedule, IsDueByStepAndByTheClock) {
  CheckpointSchedule by_step({.every = 10});
  EXPECT_FALSE(by_step.due_by_step(9));
  EXPECT_TRUE(by_step.due_by_step(10));
  EXPECT_FALSE(by_step.due_by_clock());
  const CheckpointSchedule by_clock({.every = 10, .every_minutes = 1e-12});
  EXPECT_TRUE(by_clock.due_by_clock());
  const CheckpointSchedule later({.every = 10, .every_minutes = 60});
  EXPECT_FALSE(later.due_by_clock());
}

TEST(CheckpointSchedule, WaitsBeforeItTriesAgainAndEndsTheRunAfterTooManyFailures) {
  CheckpointSchedule schedule({.every = 10, .every_minutes = 1e-9, .most_failures = 3});
  schedule.begun();
  schedule.ended({.path = "x"});
  EXPECT_FALSE(schedule.due_by_clock()) << "the disk was full a moment ago";
  schedule.ended({.path = "x"});
  schedule.ended({.path = "x", .published = true});  // counts in a row
  EXPECT_TRUE(schedule.due_by_clock());
  schedule.ended({.path = "x"});
  schedule.ended({.path = "x"});
  EXPECT_THROW(schedule.ended({.path = "x"}), RunError);
}

TEST(CheckpointSchedule, KnowsWhetherThereIsTimeForOneBeforeAKill) {
  CheckpointSchedule schedule({.grace_seconds = 2});
  EXPECT_FALSE(schedule.is_quick()) << "nothing has been measured";
  schedule.ended({.published = true, .seconds = 1.9});
  EXPECT_TRUE(schedule.is_quick());
  schedule.ended({.published = true, .seconds = 2.1});
  EXPECT_FALSE(schedule.is_quick());
}

TEST(LossSpikes, AreFoundOnceTheWindowIsFull) {
  const auto usual = [](int i) { return 1 + 0.01 * (i % 2 == 0 ? 1 : -1); };  // mean 1, deviation 0.01
  LossSpikes spikes(5), none(0);
  for (int i = 0; i < static_cast<int>(LossSpikes::kWindow); ++i) {
    EXPECT_FALSE(spikes.observe(usual(i))) << i;
    EXPECT_FALSE(none.observe(usual(i)));
  }
  EXPECT_FALSE(spikes.observe(1.049));
  EXPECT_TRUE(spikes.observe(1.06));
  EXPECT_FALSE(spikes.observe(0.5)) << "a low loss is no fault";
  EXPECT_FALSE(none.observe(1e9));
}

TEST(LossSpikes, BeforeTheWindowIsFullAreNone) {
  LossSpikes spikes(5);
  for (std::size_t i = 0; i + 1 < LossSpikes::kWindow; ++i) spikes.observe(1);
  EXPECT_FALSE(spikes.observe(1e9));
}

}  // namespace
}  // namespace perrin::trainer
