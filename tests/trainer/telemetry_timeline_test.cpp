// What a rank's clock and its collectives make of a timeline, by numbers added up by hand.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "data/data_error.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/telemetry/chrome_trace.hpp"

namespace perrin::trainer {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Json = nlohmann::ordered_json;

constexpr std::int64_t kSecond = 1'000'000'000;

TEST(ActivityClock, AddsUpWhatItsSpansShow) {
  ActivityClock clock;
  clock.keep_spans(true);
  for (std::int64_t step = 1; step <= 2; ++step) {
    clock.begin_step(step);
    clock.enter(Activity::forward);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    clock.enter(Activity::backward);
    clock.enter(Activity::report);  // of step 1: ended by nothing but the next step
    if (step == 2) clock.leave();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const std::vector<ActivitySpan> spans = clock.take_spans();
  ASSERT_EQ(spans.size(), 6U);
  EXPECT_EQ(spans[0].ended_ns, spans[1].begun_ns);
  EXPECT_EQ(spans[3].begun_ns, spans[2].ended_ns);
  EXPECT_EQ(spans[2].step, 1);
  EXPECT_EQ(spans[3].step, 2);
  double forward = 0, step = 0;
  for (const ActivitySpan& span : spans) {
    const double seconds = 1e-9 * static_cast<double>(span.ended_ns - span.begun_ns);
    if (span.activity == Activity::forward) forward += seconds;
    if (span.activity != Activity::report) step += seconds;
  }
  EXPECT_GE(forward, 4e-3);
  EXPECT_DOUBLE_EQ(clock.seconds(Activity::forward), forward);
  EXPECT_DOUBLE_EQ(clock.step_seconds(), step);
  clock.restart();
  EXPECT_EQ(clock.step_seconds(), 0);
}

TEST(ActivityClock, KeepsNoSpansUnlessAsked) {
  ActivityClock clock;
  clock.enter(Activity::forward);
  clock.leave();
  EXPECT_THAT(clock.take_spans(), IsEmpty());
}

TEST(CollectiveSpans, BeginWhereTheOneBeforeOnTheSameCommunicatorEnds) {
  comm::FlightRecorder recorder;
  const int gradients = recorder.add_track("gradients"), control = recorder.add_track("control");
  const auto slot = [](int track, std::uint64_t ticket, std::int64_t started, std::int64_t ended) {
    comm::FlightSlot made{};
    made.track = static_cast<std::uint8_t>(track);
    made.ticket = ticket;
    made.started_ns = started;
    made.ended_ns = ended;
    made.state = comm::CollectiveState::completed;
    return made;
  };
  comm::FlightRecorder::Finished finished;
  finished.collectives = {slot(gradients, 3, 12, 40), slot(gradients, 1, 10, 30), slot(control, 2, 11, 20)};
  finished.collectives.push_back(slot(gradients, 4, 50, 60));
  finished.collectives.back().state = comm::CollectiveState::failed;
  const auto spans = collective_spans(finished, recorder);
  ASSERT_EQ(spans.size(), 3U);
  EXPECT_EQ(spans[1].communicator, "control");
  EXPECT_EQ(spans[1].begun_ns, 11);
  EXPECT_EQ(spans[2].begun_ns, 30);  // a device's was submitted at 12, behind the first
  EXPECT_EQ(spans[2].ended_ns, 40);
}

/// Step 4: backward from 2 to 6 s; buckets from 4 to 5, from 5 to 7, and a control operation.
RankTrace one_step() {
  const auto activity = [](Activity what, std::int64_t begun, std::int64_t ended) {
    return ActivitySpan{.activity = what, .step = 4, .begun_ns = begun * kSecond, .ended_ns = ended * kSecond};
  };
  const auto collective = [](const char* communicator, std::int64_t enqueued, std::int64_t begun, std::int64_t ended) {
    return CollectiveSpan{.communicator = communicator,
                          .kind = comm::CollectiveKind::all_reduce,
                          .sequence = 9,
                          .bytes = 4096,
                          .enqueued_ns = enqueued * kSecond,
                          .begun_ns = begun * kSecond,
                          .ended_ns = ended * kSecond};
  };
  return {.rank = 1,
          .host = "n2",
          .time = {.clock = {.ahead_ns = 100 * kSecond, .error_ns = 5000}, .origin_ns = 101 * kSecond},
          .activities = {activity(Activity::forward, 1, 2), activity(Activity::backward, 2, 6),
                         activity(Activity::buckets, 6, 7), activity(Activity::optimizer, 7, 8),
                         activity(Activity::checkpoint, 9, 10)},
          .collectives = {collective("gradients", 4, 4, 5), collective("gradients", 4, 5, 7),
                          collective("control", 3, 3, 4), collective("control", 9, 9, 10)},
          .reads = {{.position = 32, .images = 16, .begun_ns = 0, .ended_ns = kSecond}}};
}

TEST(Overlap, IsTheBucketTimeUnderBackward) {
  const auto steps = overlap_of_steps(one_step());
  ASSERT_EQ(steps.size(), 1U);
  EXPECT_EQ(steps[0].step, 4);
  EXPECT_DOUBLE_EQ(steps[0].step_seconds, 7);
  EXPECT_DOUBLE_EQ(steps[0].backward, 4);
  EXPECT_DOUBLE_EQ(steps[0].bucket, 3);
  EXPECT_DOUBLE_EQ(steps[0].hidden, 2);
  EXPECT_DOUBLE_EQ(steps[0].exposed(), 1);
}

/// "name@ts+dur" in seconds, of one thread's events.
std::vector<std::string> events_of(const Json& trace, int thread) {
  std::vector<std::string> events;
  for (const Json& event : trace.at("traceEvents")) {
    if (event.at("ph") != "X" || event.at("tid") != thread) continue;
    EXPECT_EQ(event.at("pid"), 1);
    events.push_back(fmt::format("{}@{:g}+{:g}", event.at("name").get<std::string>(),
                                 event.at("ts").get<double>() / 1e6, event.at("dur").get<double>() / 1e6));
  }
  return events;
}

TEST(ChromeTrace, ShowsEveryThreadInTheTimeOfRankZero) {
  const Json trace = chrome_trace(one_step());
  // 100 s ahead, and time 0 is 101 s: one second less than the own clock.
  EXPECT_THAT(events_of(trace, 0), ElementsAre("step 4@0+7", "noise and forward@0+1", "backward@1+4",
                                               "wait for buckets@5+1", "optimizer@6+1", "checkpoint@8+1"));
  EXPECT_THAT(events_of(trace, 1), ElementsAre("bucket 0@3+1", "bucket 1@4+2"));
  EXPECT_THAT(events_of(trace, 2), ElementsAre("all_reduce@2+1", "all_reduce@8+1"));
  EXPECT_THAT(events_of(trace, 3), ElementsAre("read 16 images@-1+1"));
  EXPECT_EQ(trace.at("traceEvents")[0].at("args").at("name"), "rank 1 (n2)");
  EXPECT_EQ(trace.at("otherData").at("ranks")[0].at("clock_error_us"), 5.0);
}

TEST(ChromeTrace, OfSeveralRanksHoldsTheEventsOfAllAndSurvivesTheDisk) {
  const test::TemporaryFolder folder;
  RankTrace other = one_step();
  other.rank = 0;
  const Json merged = merge_chrome_traces({chrome_trace(other), chrome_trace(one_step())});
  EXPECT_EQ(merged.at("traceEvents").size(), 2 * chrome_trace(other).at("traceEvents").size());
  write_chrome_trace(folder.path() / "trace.json", merged);
  EXPECT_EQ(read_chrome_trace(folder.path() / "trace.json"), merged);
  std::ofstream(folder.path() / "half.json") << "{\"traceEvents\":[";
  EXPECT_THROW((void)read_chrome_trace(folder.path() / "half.json"), data::DataError);
}

}  // namespace
}  // namespace perrin::trainer
