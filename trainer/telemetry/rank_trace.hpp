#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/clock_offset.hpp"
#include "comm/flight_recorder.hpp"
#include "trainer/telemetry/activity_clock.hpp"

namespace perrin::trainer {

/// A collective of a timeline.
struct CollectiveSpan {
  std::string communicator;  ///< "gradients", "control", ...
  comm::CollectiveKind kind = comm::CollectiveKind::barrier;
  std::uint64_t sequence = 0;
  std::uint64_t bytes = 0;  ///< of the larger buffer
  std::int64_t enqueued_ns = 0, begun_ns = 0, ended_ns = 0;
};

/// A batch that the loader read, of [position, position + images) of the sample stream.
struct ReadSpan {
  std::uint64_t position = 0, images = 0;
  std::int64_t begun_ns = 0, ended_ns = 0;
};

/// How one rank's moments become those of the common picture.
struct TimeBase {
  comm::ClockOffset clock;     ///< to rank 0's
  std::int64_t origin_ns = 0;  ///< rank 0's clock at time 0
};

/// Compares the ranks' clocks; time 0 is now. Collective. @throws comm::CommError
TimeBase common_time_base(comm::Communicator& control);

/// What one rank did during some steps. All times by its own comm::steady_ns().
struct RankTrace {
  int rank = 0;
  std::string host;
  TimeBase time;
  std::vector<ActivitySpan> activities;
  std::vector<CollectiveSpan> collectives;  ///< of each communicator in order, none before the end of the one before
  std::vector<ReadSpan> reads;
  std::uint64_t missed_collectives = 0;
};

/// Completed ones of what a recorder kept. Operations of a communicator run one after the other, so none is said to
/// begin before the one ahead of it has ended: of a device the host sees the submission only.
std::vector<CollectiveSpan> collective_spans(const comm::FlightRecorder::Finished& finished,
                                             const comm::FlightRecorder& recorder);

/// Whether a communicator carries gradients ("gradients", "gradients/nccl").
bool carries_gradients(const CollectiveSpan& collective);

/// How much of a step's communication of gradients backward covers, in seconds of one rank.
struct StepOverlap {
  std::int64_t step = 0;
  double step_seconds = 0;
  double backward = 0;
  double bucket = 0;  ///< from start to end of each collective of gradients submitted in the step
  double hidden = 0;  ///< of that under backward

  double exposed() const { return bucket - hidden; }
  double hidden_share() const { return bucket > 0 ? hidden / bucket : 0; }
};

/// For every step of the trace, in order.
std::vector<StepOverlap> overlap_of_steps(const RankTrace& trace);

}  // namespace perrin::trainer
