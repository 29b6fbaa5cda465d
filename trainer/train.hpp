#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "comm/world.hpp"
#include "trainer/config.hpp"
#include "trainer/telemetry/trace_steps.hpp"

namespace perrin::trainer {

/// Why train() returned.
enum class StopReason {
  finished,    ///< train.steps are done
  time_budget  ///< train.max_minutes are over; the same command goes on
};

struct TrainOutcome {
  StopReason reason = StopReason::finished;
  std::int64_t step = 0;             ///< finished steps of the run
  std::filesystem::path checkpoint;  ///< the newest one
};

/// Trains the run that `config` describes, from its newest whole checkpoint if it has one. Collective over the world;
/// rank 0 has claimed the run folder (claim_run_folder).
/// @param resolved_config every key as text; stored with the run and in each checkpoint
/// @param device          where this rank computes
/// @param trace           steps whose timeline goes to the run folder
/// @throws RunError, CheckpointError, data::DataError, comm::CommError
TrainOutcome train(const Config& config, const std::string& resolved_config, comm::World& world, at::Device device,
                   std::optional<TraceSteps> trace = std::nullopt);

}  // namespace perrin::trainer
