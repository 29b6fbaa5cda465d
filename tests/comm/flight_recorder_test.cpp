// The ring of the last collectives, its file, and what is read out of the rings of several ranks.
#include "comm/flight_recorder.hpp"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <thread>

#include "comm/flight_report.hpp"
#include "comm/watchdog.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr Collective kBucket{.kind = CollectiveKind::all_reduce, .type = DataType::float32, .bytes = 4096};

class FlightRecords : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  /// A recorder of one rank, with one communicator.
  std::unique_ptr<FlightRecorder> recorder(int rank = 0, int size = 1, std::uint64_t start_id = 1) {
    auto recorder = std::make_unique<FlightRecorder>();
    track_ = recorder->add_track("gradients");
    recorder->enter(Phase::step, 0ms);
    EXPECT_EQ(recorder->record_in(folder_, rank, size, start_id), "");
    return recorder;
  }
  void complete(FlightRecorder& recorder, std::uint64_t sequence, const Collective& collective = kBucket) const {
    const std::uint64_t ticket = recorder.enqueued(track_, sequence, collective);
    recorder.started(ticket);
    recorder.completed(track_, sequence, ticket);
  }
  RankRecord read(int rank = 0) const { return read_flight_file(path(rank)); }
  std::filesystem::path path(int rank = 0) const { return folder_ / flight_file_name(rank); }
  const std::filesystem::path& folder() const { return folder_; }
  int track() const { return track_; }
  /// Stores bytes over those of a file.
  void overwrite(std::size_t offset, const void* bytes, std::size_t count) const {
    std::fstream file(path(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(count));
  }
  static std::size_t slot_offset(std::size_t place) { return sizeof(FlightHeader) + place * sizeof(FlightSlot); }

 private:
  std::filesystem::path folder_ = testing::TempDir() + "perrin-flight-unit-" + std::to_string(::getpid());
  int track_ = 0;
};

TEST_F(FlightRecords, KeepWhatEndsForATimelineWhileTheyAreAsked) {
  const auto flight = recorder();
  complete(*flight, 1);
  flight->keep_finished(true);
  for (std::uint64_t sequence = 2; sequence <= kFlightSlots + 10; ++sequence) complete(*flight, sequence);
  const FlightRecorder::Finished finished = flight->take_finished();
  ASSERT_EQ(finished.collectives.size(), kFlightSlots + 9);  // more than the ring holds
  EXPECT_EQ(finished.collectives.front().sequence, 2U);
  EXPECT_EQ(finished.collectives.back().sequence, kFlightSlots + 10);
  EXPECT_GT(finished.collectives.back().ended_ns, 0);
  EXPECT_EQ(flight->track_name(finished.collectives.back().track), "gradients");
  EXPECT_EQ(finished.missed, 0U);
  flight->keep_finished(false);
  complete(*flight, kFlightSlots + 11);
  EXPECT_THAT(flight->take_finished().collectives, IsEmpty());
}

TEST_F(FlightRecords, CountTheEndsThatATimelineMisses) {
  const auto flight = recorder();
  flight->keep_finished(true);
  std::vector<std::uint64_t> tickets;
  for (std::uint64_t sequence = 1; sequence <= kFlightSlots + 3; ++sequence)
    tickets.push_back(flight->enqueued(track(), sequence, kBucket));
  for (std::uint64_t sequence = 1; sequence <= tickets.size(); ++sequence)
    flight->completed(track(), sequence, tickets[sequence - 1]);
  const FlightRecorder::Finished finished = flight->take_finished();
  EXPECT_EQ(finished.collectives.size(), kFlightSlots);
  EXPECT_EQ(finished.missed, 3U);
}

TEST_F(FlightRecords, HoldWhatWasSubmittedStartedAndCompleted) {
  const auto flight = recorder();
  complete(*flight, 1);
  const std::uint64_t second = flight->enqueued(track(), 2, {CollectiveKind::broadcast, DataType::uint8, 7, 3});
  flight->started(second);
  flight->enqueued(track(), 3, {});
  const RankRecord record = read();
  ASSERT_EQ(record.slots.size(), 3U);
  const FlightSlot& first = record.slots[0];
  EXPECT_EQ(first.state, CollectiveState::completed);
  EXPECT_EQ(first.bytes, 4096U);
  EXPECT_EQ(first.phase, Phase::step);
  EXPECT_GT(first.enqueued_wall_ns, 0);
  EXPECT_LE(first.enqueued_ns, first.started_ns);
  EXPECT_LE(first.started_ns, first.ended_ns);
  EXPECT_EQ(record.slots[1].state, CollectiveState::started);
  EXPECT_EQ(record.slots[1].detail, 3U);
  EXPECT_EQ(record.slots[1].ended_ns, 0);
  EXPECT_EQ(record.slots[2].state, CollectiveState::enqueued);
  EXPECT_EQ(record.header.tracks[0].enqueued, 3U);
  EXPECT_EQ(record.header.tracks[0].finished, 1U);
}

TEST_F(FlightRecords, WrappedRingHoldsTheLastOfThemOldestFirst) {
  const auto flight = recorder();
  for (std::uint64_t sequence = 1; sequence <= 2 * kFlightSlots + 10; ++sequence) complete(*flight, sequence);
  const RankRecord record = read();
  ASSERT_EQ(record.slots.size(), kFlightSlots);
  for (std::size_t i = 0; i < kFlightSlots; ++i) EXPECT_EQ(record.slots[i].sequence, kFlightSlots + 11 + i);
  EXPECT_EQ(record.torn, 0U);
}

TEST_F(FlightRecords, EndOfAnOverwrittenCollectiveLeavesTheNewOneAlone) {
  const auto flight = recorder();
  const std::uint64_t old = flight->enqueued(track(), 1, kBucket);
  for (std::uint64_t sequence = 2; sequence <= kFlightSlots + 1; ++sequence)
    flight->enqueued(track(), sequence, kBucket);
  flight->completed(track(), 1, old);
  for (const FlightSlot& slot : read().slots) EXPECT_EQ(slot.state, CollectiveState::enqueued) << slot.sequence;
  EXPECT_EQ(read().header.tracks[0].finished, 1U);
}

TEST_F(FlightRecords, WhatWasRecordedBeforeTheFileIsInIt) {
  FlightRecorder flight;
  const int control = flight.add_track("control");
  const std::uint64_t ticket = flight.enqueued(control, 1, {});
  ASSERT_EQ(flight.record_in(folder(), 0, 1, 1), "");
  flight.completed(control, 1, ticket);
  ASSERT_EQ(read().slots.size(), 1U);
  EXPECT_EQ(read().slots[0].state, CollectiveState::completed);
}

TEST_F(FlightRecords, SurviveSigkill) {
  const pid_t child = ::fork();
  if (child == 0) {
    const auto flight = recorder();
    complete(*flight, 1);
    flight->enqueued(track(), 2, kBucket);
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  const RankRecord record = read();
  ASSERT_EQ(record.slots.size(), 2U);
  EXPECT_EQ(record.slots[1].state, CollectiveState::enqueued);
  EXPECT_EQ(record.header.ending, Ending::running);
  EXPECT_FALSE(record.alive);
  EXPECT_TRUE(merge_flight(folder())->ended_badly());
}

TEST_F(FlightRecords, OfALivingProcessAreNoBadEnd) {
  const auto flight = recorder();
  flight->enqueued(track(), 1, kBucket);
  EXPECT_TRUE(read().alive);
  EXPECT_FALSE(merge_flight(folder())->ended_badly());
}

TEST_F(FlightRecords, OfRanksThatEndOneAfterTheOtherAreOneEnd) {
  auto first = recorder(0, 2), last = recorder(1, 2);
  first.reset();
  std::jthread later([&] {
    std::this_thread::sleep_for(200ms);
    last.reset();
  });
  EXPECT_TRUE(merge_flight(folder())->ended_badly());
}

TEST_F(FlightRecords, FormerFileIsKeptAsPrevious) {
  {
    const auto former = recorder(0, 1, 1);
    complete(*former, 1);
  }
  const auto flight = recorder(0, 1, 2);
  EXPECT_THAT(read().slots, IsEmpty());
  EXPECT_EQ(read_flight_file(folder() / "rank-0000.previous.bin").slots.size(), 1U);
}

TEST_F(FlightRecords, FolderThatCannotBeMadeIsAReasonAndRecordingGoesOn) {
  { std::ofstream file(folder()); }
  FlightRecorder flight;
  const int control = flight.add_track("control");
  EXPECT_THAT(flight.record_in(folder(), 0, 1, 1), HasSubstr("cannot make"));
  EXPECT_EQ(flight.enqueued(control, 1, {}), 1U);
}

TEST_F(FlightRecords, TornAndSenselessEntriesAreLeftOut) {
  {
    const auto flight = recorder();
    for (std::uint64_t sequence = 1; sequence <= 4; ++sequence) complete(*flight, sequence);
  }
  const std::uint64_t zero = 0;
  const std::uint8_t wild = 200;
  overwrite(slot_offset(1) + offsetof(FlightSlot, ticket), &zero, sizeof(zero));  // killed while it was written
  overwrite(slot_offset(2) + offsetof(FlightSlot, kind), &wild, sizeof(wild));
  const RankRecord record = read();
  ASSERT_EQ(record.slots.size(), 2U);
  EXPECT_EQ(record.slots[0].sequence, 1U);
  EXPECT_EQ(record.slots[1].sequence, 4U);
  EXPECT_EQ(record.torn, 2U);
}

TEST_F(FlightRecords, TruncatedForeignAndDamagedFilesAreRefused) {
  EXPECT_THROW(read(), FlightFileError);  // none
  { const auto flight = recorder(); }
  const std::int32_t rank_of_none = -1;
  overwrite(offsetof(FlightHeader, rank), &rank_of_none, sizeof(rank_of_none));
  EXPECT_THROW(read(), FlightFileError);
  const std::uint64_t magic = kFlightMagic + 1;
  overwrite(0, &magic, sizeof(magic));
  EXPECT_THROW(read(), FlightFileError);
  std::filesystem::resize_file(path(), sizeof(FlightFile) - 1);
  EXPECT_THROW(read(), FlightFileError);
  const auto report = merge_flight(folder());
  ASSERT_TRUE(report.has_value());
  EXPECT_THAT(report->unreadable, ElementsAre(HasSubstr("rank-0000.bin: has")));
}

TEST_F(FlightRecords, FolderWithoutRecordsIsNoReport) { EXPECT_EQ(merge_flight(folder()), std::nullopt); }

TEST_F(FlightRecords, RankThatDidNotSubmitIsLate) {
  {
    const auto ahead = recorder(0, 3);
    const auto behind = recorder(1, 3);
    const auto level = recorder(2, 3);
    for (FlightRecorder* flight : {ahead.get(), behind.get(), level.get()}) complete(*flight, 1);
    for (const std::uint64_t sequence : {2U, 3U}) {
      ahead->enqueued(track(), sequence, kBucket);
      level->enqueued(track(), sequence, kBucket);
    }
  }
  const FlightReport report = *merge_flight(folder());
  const CommunicatorReport& gradients = report.communicators.at(0);
  EXPECT_EQ(gradients.sequence, 2U);
  EXPECT_EQ(gradients.operation, "all_reduce of 4096 bytes float32 (sum)");
  EXPECT_EQ(gradients.phase, "step");
  EXPECT_THAT(gradients.late_ranks, ElementsAre(1));
  EXPECT_EQ(gradients.positions[0].unfinished, 2U);
  EXPECT_EQ(gradients.positions[1].completed, 1U);
  EXPECT_THAT(report.named_ranks, ElementsAre(1));
  EXPECT_TRUE(report.ended_badly());
}

TEST_F(FlightRecords, RankLeftBehindByAWrappedRingIsStillLate) {
  {
    const auto ahead = recorder(0, 2);
    const auto behind = recorder(1, 2);
    complete(*behind, 1);
    for (std::uint64_t sequence = 1; sequence <= 3 * kFlightSlots; ++sequence) complete(*ahead, sequence);
  }
  const CommunicatorReport gradients = merge_flight(folder())->communicators.at(0);
  EXPECT_EQ(gradients.sequence, 2U);
  EXPECT_EQ(gradients.operation, "");  // overwritten since
  EXPECT_THAT(gradients.late_ranks, ElementsAre(1));
}

TEST_F(FlightRecords, FirstOtherOperationUnderOneNumberIsNamedByBothRanks) {
  const Collective others[] = {{CollectiveKind::all_gather, DataType::float32, 4096},
                               {CollectiveKind::all_reduce, DataType::bfloat16, 4096},
                               {CollectiveKind::all_reduce, DataType::float32, 8192},
                               {CollectiveKind::all_reduce, DataType::float32, 4096, 1}};
  for (const Collective& other : others) {
    {
      const auto a = recorder(0, 2);
      const auto b = recorder(1, 2);
      complete(*a, 1);
      complete(*b, 1);
      a->enqueued(track(), 2, kBucket);
      b->enqueued(track(), 2, other);
      a->enqueued(track(), 3, kBucket);
      b->enqueued(track(), 3, other);
    }
    const FlightReport report = *merge_flight(folder());
    ASSERT_EQ(report.mismatches.size(), 1U);
    EXPECT_EQ(report.mismatches[0].sequence, 2U);
    EXPECT_NE(report.mismatches[0].operation_a, report.mismatches[0].operation_b);
    EXPECT_THAT(report.summary(), AllOf(HasSubstr("#2 of gradients was"), HasSubstr("rank 0"), HasSubstr("rank 1")));
  }
}

TEST_F(FlightRecords, RankWithAnErrorOfItsOwnIsNamedBeforeThoseThatWaitedForIt) {
  {
    const auto waits = recorder(0, 2);
    const auto fails = recorder(1, 2);
    waits->enqueued(track(), 1, kBucket);
    waits->end(Ending::watchdog, kWatchdogExitCode, "no progress");
    fails->end(Ending::error, 70, "out of memory");
    fails->end(Ending::orderly, 0, "");  // the first one is kept
  }
  const FlightReport report = *merge_flight(folder());
  EXPECT_THAT(report.named_ranks, ElementsAre(1));
  EXPECT_THAT(report.summary(), AllOf(HasSubstr("ended with code 70: out of memory"), HasSubstr("late at #1")));
}

TEST_F(FlightRecords, RankWithoutARecordIsMissingAndOtherStartsAreIgnored) {
  {
    const auto of_an_earlier_start = recorder(3, 4, /*start_id=*/1);
    const auto root = recorder(0, 2, /*start_id=*/2);
    root->end(Ending::orderly, 0, "");
  }
  const FlightReport report = *merge_flight(folder());
  EXPECT_EQ(report.ranks, 2);
  EXPECT_THAT(report.missing, ElementsAre(1));
  EXPECT_TRUE(report.ended_badly());
  EXPECT_THAT(report.summary(), HasSubstr("rank 1 left no record"));
}

TEST_F(FlightRecords, OrderlyEndOfAllRanksIsNoBadEnd) {
  {
    const auto a = recorder(0, 2);
    const auto b = recorder(1, 2);
    for (FlightRecorder* flight : {a.get(), b.get()}) {
      complete(*flight, 1);
      flight->end(Ending::orderly, 0, "");
    }
  }
  const FlightReport report = *merge_flight(folder());
  EXPECT_FALSE(report.ended_badly());
  EXPECT_EQ(report.communicators.at(0).sequence, 0U);
}

TEST_F(FlightRecords, RecordingCostsLittle) {
  const auto flight = recorder();
  constexpr int kRepeats = 100'000;
  const auto begun = std::chrono::steady_clock::now();
  for (int i = 1; i <= kRepeats; ++i) complete(*flight, static_cast<std::uint64_t>(i));
  const std::chrono::duration<double, std::micro> each = (std::chrono::steady_clock::now() - begun) / kRepeats;
  RecordProperty("microseconds_per_collective", std::to_string(each.count()));
  std::printf("%.3f us per collective\n", each.count());
  EXPECT_LT(each.count(), 20.0);  // 0.2 to be expected; sanitizers and a busy machine are slower
}

TEST(WatchdogDeathTest, EndsAProcessWhoseCommunicatorMakesNoProgress) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        const auto flight = std::make_shared<FlightRecorder>();
        const int track = flight->add_track("gradients");
        flight->enter(Phase::step, 1ms);
        flight->enqueued(track, 1, kBucket);
        const Watchdog watchdog(flight);
        std::this_thread::sleep_for(30s);
      },
      testing::ExitedWithCode(kWatchdogExitCode),
      "watchdog: all_reduce #1 of gradients, 4096 bytes float32, in phase step has made no progress for 3");
}

TEST(Watchdog, LeavesIdleAndUnboundedCommunicatorsAlone) {
  const auto flight = std::make_shared<FlightRecorder>();
  const int track = flight->add_track("gradients");
  const Watchdog watchdog(flight);
  flight->enter(Phase::step, 1ms);
  const std::uint64_t ticket = flight->enqueued(track, 1, kBucket);
  flight->completed(track, 1, ticket);
  std::this_thread::sleep_for(Watchdog::kGrace + 300ms);
  flight->enter(Phase::start, 0ms);
  flight->enqueued(track, 2, kBucket);
  std::this_thread::sleep_for(Watchdog::kGrace + 300ms);
  SUCCEED();  // this process is still here
}

}  // namespace
}  // namespace perrin::comm
