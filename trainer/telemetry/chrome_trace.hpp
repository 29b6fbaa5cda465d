#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "trainer/telemetry/rank_trace.hpp"

namespace perrin::trainer {

/// One rank's timeline as a JSON object of the Trace Event Format, which Perfetto and chrome://tracing open: process =
/// rank, named with its host; threads main, gradients, control and loader. Times are those of rank 0's clock.
/// Source: "Trace Event Format" (Google), complete events.
nlohmann::ordered_json chrome_trace(const RankTrace& trace);

/// Several ranks' timelines as one.
nlohmann::ordered_json merge_chrome_traces(const std::vector<nlohmann::ordered_json>& traces);

/// One event a line. @throws data::DataError
void write_chrome_trace(const std::filesystem::path& path, const nlohmann::ordered_json& trace);
/// @throws data::DataError if the file cannot be read or holds no trace
nlohmann::ordered_json read_chrome_trace(const std::filesystem::path& path);

}  // namespace perrin::trainer
