#pragma once

#include <filesystem>

#include "comm/world.hpp"
#include "trainer/telemetry/rank_trace.hpp"
#include "trainer/telemetry/trace_steps.hpp"

namespace perrin::trainer {

/// Writes folder/rank-NNNN.json of each rank, and folder/steps-FIRST-LAST.json of all, which rank 0 merges from the
/// files of the others: the folder is one that all ranks see. A file that cannot be written or read costs a warning,
/// not the run. Collective. @throws comm::CommError
void write_timeline(const std::filesystem::path& folder, TraceSteps steps, const RankTrace& trace, comm::World& world);

}  // namespace perrin::trainer
