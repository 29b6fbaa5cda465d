#include "trainer/telemetry/rank_trace.hpp"

#include <algorithm>
#include <map>
#include <span>

#include "comm/steady_clock.hpp"

namespace perrin::trainer {
namespace {

double seconds(std::int64_t ns) { return 1e-9 * static_cast<double>(ns); }

/// Nanoseconds that two stretches of time share.
template <typename A, typename B>
std::int64_t common_ns(const A& a, const B& b) {
  return std::max<std::int64_t>(0, std::min(a.ended_ns, b.ended_ns) - std::max(a.begun_ns, b.begun_ns));
}

}  // namespace

TimeBase common_time_base(comm::Communicator& control) {
  TimeBase time{.clock = comm::measure_clock_offset(control), .origin_ns = comm::steady_ns()};
  control.broadcast(std::span<std::int64_t>(&time.origin_ns, 1), /*root=*/0).wait();
  return time;
}

std::vector<CollectiveSpan> collective_spans(const comm::FlightRecorder::Finished& finished,
                                             const comm::FlightRecorder& recorder) {
  std::vector<comm::FlightSlot> slots = finished.collectives;
  std::erase_if(slots, [](const comm::FlightSlot& slot) { return slot.state != comm::CollectiveState::completed; });
  std::sort(slots.begin(), slots.end(), [](const auto& a, const auto& b) { return a.ticket < b.ticket; });
  std::map<std::uint8_t, std::int64_t> ended;
  std::vector<CollectiveSpan> spans;
  for (const comm::FlightSlot& slot : slots) {
    std::int64_t& free_at = ended[slot.track];
    const std::int64_t begun = std::max(slot.started_ns, free_at);
    free_at = std::max(slot.ended_ns, begun);
    spans.push_back({.communicator = recorder.track_name(slot.track),
                     .kind = slot.kind,
                     .sequence = slot.sequence,
                     .bytes = slot.bytes,
                     .enqueued_ns = slot.enqueued_ns,
                     .begun_ns = begun,
                     .ended_ns = free_at});
  }
  return spans;
}

bool carries_gradients(const CollectiveSpan& collective) { return collective.communicator.starts_with("gradients"); }

std::vector<StepOverlap> overlap_of_steps(const RankTrace& trace) {
  std::map<std::int64_t, std::vector<ActivitySpan>> steps;
  for (const ActivitySpan& span : trace.activities)
    if (within_step(span.activity)) steps[span.step].push_back(span);
  std::vector<StepOverlap> overlaps;
  for (const auto& [step, spans] : steps) {
    const std::int64_t begun = spans.front().begun_ns, ended = spans.back().ended_ns;
    StepOverlap overlap{.step = step, .step_seconds = seconds(ended - begun)};
    for (const ActivitySpan& span : spans)
      if (span.activity == Activity::backward) overlap.backward += seconds(span.ended_ns - span.begun_ns);
    for (const CollectiveSpan& bucket : trace.collectives) {
      if (!carries_gradients(bucket) || bucket.enqueued_ns < begun || bucket.enqueued_ns >= ended) continue;
      overlap.bucket += seconds(bucket.ended_ns - bucket.begun_ns);
      for (const ActivitySpan& span : spans)
        if (span.activity == Activity::backward) overlap.hidden += seconds(common_ns(bucket, span));
    }
    overlaps.push_back(overlap);
  }
  return overlaps;
}

}  // namespace perrin::trainer
