#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "comm/world.hpp"
#include "trainer/config.hpp"
#include "trainer/stop_notice.hpp"
#include "trainer/telemetry/trace_steps.hpp"

namespace perrin::trainer {

/// Why train() returned.
enum class StopReason {
  finished,     ///< train.steps are done
  time_budget,  ///< train.max_minutes are over; the same command goes on
  notice        ///< the outside asked for it (StopNotice); the same command goes on
};

struct TrainOutcome {
  StopReason reason = StopReason::finished;
  std::int64_t step = 0;             ///< finished steps of the run
  std::filesystem::path checkpoint;  ///< the newest one; empty: there is none
};

/// What a training takes beside its configuration.
struct TrainOptions {
  std::optional<TraceSteps> trace = std::nullopt;  ///< steps whose timeline goes to the run folder
  StopNoticeSource notice = {};                    ///< of this rank; empty: nobody asks for anything
  std::string program = {};                        ///< versions, for the checkpoints
};

/// Trains the run that `config` describes, from its newest whole checkpoint if it has one. Where its numbers go wrong
/// it returns to that checkpoint and leaves out the images since (RecoveryConfig). Collective over the world; rank 0
/// has claimed the run folder (claim_run_folder).
/// @param resolved_config every key as text; stored with the run and in each checkpoint
/// @param device          where this rank computes
/// @throws RunError, CheckpointError, data::DataError, comm::CommError
TrainOutcome train(const Config& config, const std::string& resolved_config, comm::World& world, at::Device device,
                   const TrainOptions& options = {});

}  // namespace perrin::trainer
