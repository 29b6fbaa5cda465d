#include "trainer/telemetry/trace_recorder.hpp"

#include <utility>

#include "trainer/telemetry/timeline_files.hpp"

namespace perrin::trainer {
namespace {

std::int64_t ns_of(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

}  // namespace

TraceRecorder::TraceRecorder(std::filesystem::path folder, comm::World& world, ActivityClock& clock)
    : folder_(std::move(folder)), world_(world), clock_(clock) {}

void TraceRecorder::begin() {
  clock_.leave();
  time_ = common_time_base(world_.control());
  world_.flight().keep_finished(true);
  clock_.keep_spans(true);
  running_ = true;
}

void TraceRecorder::end(TraceSteps steps) { write_timeline(folder_, steps, take(), world_); }

RankTrace TraceRecorder::take() {
  running_ = false;
  clock_.leave();
  clock_.keep_spans(false);
  comm::FlightRecorder& flight = world_.flight();
  flight.keep_finished(false);
  const comm::FlightRecorder::Finished finished = flight.take_finished();
  RankTrace trace{.rank = world_.rank(),
                  .host = world_.host_name(),
                  .time = time_,
                  .activities = clock_.take_spans(),
                  .collectives = collective_spans(finished, flight),
                  .reads = {},
                  .missed_collectives = finished.missed};
  const std::lock_guard lock(mutex_);
  trace.reads = std::exchange(reads_, {});
  return trace;
}

void TraceRecorder::batch_read(const data::Slice& slice, std::chrono::steady_clock::time_point begun,
                               std::chrono::steady_clock::time_point ended) {
  if (!running()) return;
  const std::lock_guard lock(mutex_);
  reads_.push_back({slice.position, slice.count, ns_of(begun), ns_of(ended)});
}

}  // namespace perrin::trainer
