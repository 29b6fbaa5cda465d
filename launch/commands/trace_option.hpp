#pragma once

#include <optional>
#include <string>

#include "trainer/telemetry/trace_steps.hpp"

namespace perrin::launch {

/// What `--trace` asks for: "steps=10-12", or "steps=10" for one; empty: nothing.
/// @param run_steps  train.steps, which the range must not pass
/// @throws UsageError for another text, a range backwards, beyond the run, or of more than 1000 steps
std::optional<trainer::TraceSteps> read_trace_steps(const std::string& text, std::int64_t run_steps);

}  // namespace perrin::launch
