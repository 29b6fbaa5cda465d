#include "trainer/telemetry/timeline_files.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <exception>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/data_error.hpp"
#include "trainer/telemetry/chrome_trace.hpp"

namespace perrin::trainer {
namespace {

std::filesystem::path rank_file(const std::filesystem::path& folder, int rank) {
  return folder / fmt::format("rank-{:04}.json", rank);
}

void merge(const std::filesystem::path& folder, TraceSteps steps, int ranks) {
  std::vector<nlohmann::ordered_json> traces;
  for (int rank = 0; rank < ranks; ++rank) {
    try {
      traces.push_back(read_chrome_trace(rank_file(folder, rank)));
    } catch (const data::DataError& error) {
      spdlog::warn("the timeline of rank {} is left out: {}", rank, error.what());
    }
  }
  const auto path = folder / fmt::format("steps-{}-{}.json", steps.first, steps.last);
  try {
    write_chrome_trace(path, merge_chrome_traces(traces));
    spdlog::info("timeline of steps {} to {}: {} (open it in https://ui.perfetto.dev or chrome://tracing)", steps.first,
                 steps.last, path.string());
  } catch (const data::DataError& error) {
    spdlog::warn("no merged timeline: {}", error.what());
  }
}

}  // namespace

void write_timeline(const std::filesystem::path& folder, TraceSteps steps, const RankTrace& trace, comm::World& world) {
  if (trace.missed_collectives > 0)
    spdlog::warn("the timeline misses {} collectives: more than {} were under way; raise distributed.bucket_mib",
                 trace.missed_collectives, comm::kFlightSlots);
  const auto own = rank_file(folder, world.rank());
  try {
    std::filesystem::create_directories(folder);
    std::filesystem::remove(own);  // of an earlier timeline: rank 0 shall not take it for this one
    write_chrome_trace(own, chrome_trace(trace));
  } catch (const std::exception& error) {
    spdlog::warn("the timeline of this rank is not written: {}", error.what());
  }
  world.control().barrier().wait();  // every rank's file is there
  if (world.is_root()) merge(folder, steps, world.size());
}

}  // namespace perrin::trainer
