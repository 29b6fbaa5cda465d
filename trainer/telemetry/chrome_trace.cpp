#include "trainer/telemetry/chrome_trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "data/data_error.hpp"
#include "data/file.hpp"

namespace perrin::trainer {
namespace {

using Json = nlohmann::ordered_json;

/// The threads of a process in the picture, in this order.
enum class Lane { main, gradients, control, loader };
constexpr std::array<std::string_view, 4> kLaneNames = {"main", "gradients", "control", "loader"};

class Events {
 public:
  explicit Events(const RankTrace& trace)
      : rank_(trace.rank), shift_ns_(trace.time.clock.ahead_ns - trace.time.origin_ns) {
    describe(fmt::format("rank {} ({})", trace.rank, trace.host));
    add_activities(trace.activities);
    add_collectives(trace);
    for (const ReadSpan& read : trace.reads) {
      add(Lane::loader, fmt::format("read {} images", read.images), "loader", read.begun_ns, read.ended_ns,
          {{"position", read.position}});
    }
  }

  Json take() { return std::move(events_); }

 private:
  void describe(const std::string& process) {
    const auto name = [&](const char* what, std::size_t lane, Json args) {
      events_.push_back({{"ph", "M"}, {"name", what}, {"pid", rank_}, {"tid", lane}, {"args", std::move(args)}});
    };
    name("process_name", 0, {{"name", process}});
    name("process_sort_index", 0, {{"sort_index", rank_}});
    for (std::size_t lane = 0; lane < kLaneNames.size(); ++lane) {
      name("thread_name", lane, {{"name", kLaneNames[lane]}});
      name("thread_sort_index", lane, {{"sort_index", lane}});
    }
  }

  double microseconds(std::int64_t own_ns) const { return static_cast<double>(own_ns + shift_ns_) / 1e3; }

  void add(Lane lane, const std::string& name, const char* category, std::int64_t begun_ns, std::int64_t ended_ns,
           Json args) {
    events_.push_back({{"ph", "X"},
                       {"name", name},
                       {"cat", category},
                       {"pid", rank_},
                       {"tid", static_cast<int>(lane)},
                       {"ts", microseconds(begun_ns)},
                       {"dur", static_cast<double>(ended_ns - begun_ns) / 1e3},
                       {"args", std::move(args)}});
  }

  void add_activities(const std::vector<ActivitySpan>& spans) {
    for (std::size_t i = 0; i < spans.size(); ++i) {
      const ActivitySpan& span = spans[i];
      const bool first_of_step = within_step(span.activity) && (i == 0 || spans[i - 1].step != span.step);
      if (first_of_step) {
        const auto last = std::find_if(spans.rbegin(), spans.rend(), [&](const ActivitySpan& other) {
          return other.step == span.step && within_step(other.activity);
        });
        add(Lane::main, fmt::format("step {}", span.step), "step", span.begun_ns, last->ended_ns,
            {{"step", span.step}});
      }
      add(Lane::main, std::string(name_of(span.activity)), "compute", span.begun_ns, span.ended_ns,
          {{"step", span.step}});
    }
  }

  void add_collectives(const RankTrace& trace) {
    std::map<std::pair<std::int64_t, comm::CollectiveKind>, int> buckets;  // of a step, so far
    for (const CollectiveSpan& collective : trace.collectives) {
      Json args = {{"collective", comm::name_of(collective.kind)},
                   {"number", collective.sequence},
                   {"bytes", collective.bytes},
                   {"queued_us", static_cast<double>(collective.begun_ns - collective.enqueued_ns) / 1e3}};
      const bool gradients = carries_gradients(collective);
      std::string name(comm::name_of(collective.kind));
      if (const std::int64_t step = step_at(trace.activities, collective.enqueued_ns); step > 0) {
        args["step"] = step;
        if (gradients) {
          args["bucket"] = buckets[{step, collective.kind}]++;
          name = fmt::format("bucket {}", args["bucket"].get<int>());
        }
      }
      add(gradients ? Lane::gradients : Lane::control, name, gradients ? "gradients" : "control", collective.begun_ns,
          collective.ended_ns, std::move(args));
    }
  }

  /// The step during which something happened; 0: none.
  static std::int64_t step_at(const std::vector<ActivitySpan>& spans, std::int64_t ns) {
    for (const ActivitySpan& span : spans)
      if (within_step(span.activity) && span.begun_ns <= ns && ns < span.ended_ns) return span.step;
    return 0;
  }

  int rank_;
  std::int64_t shift_ns_;
  Json events_ = Json::array();
};

Json overlap_json(const StepOverlap& overlap) {
  return {{"step", overlap.step},
          {"step_seconds", overlap.step_seconds},
          {"backward_seconds", overlap.backward},
          {"bucket_seconds", overlap.bucket},
          {"hidden_seconds", overlap.hidden},
          {"exposed_seconds", overlap.exposed()}};
}

}  // namespace

Json chrome_trace(const RankTrace& trace) {
  Json steps = Json::array();
  for (const StepOverlap& overlap : overlap_of_steps(trace)) steps.push_back(overlap_json(overlap));
  const Json rank = {{"rank", trace.rank},
                     {"host", trace.host},
                     {"clock_ahead_us", static_cast<double>(trace.time.clock.ahead_ns) / 1e3},
                     {"clock_error_us", static_cast<double>(trace.time.clock.error_ns) / 1e3},
                     {"missed_collectives", trace.missed_collectives},
                     {"steps", std::move(steps)}};
  return {{"displayTimeUnit", "ms"},
          {"otherData", {{"ranks", Json::array({rank})}}},
          {"traceEvents", Events(trace).take()}};
}

Json merge_chrome_traces(const std::vector<Json>& traces) {
  Json merged = {{"displayTimeUnit", "ms"}, {"otherData", {{"ranks", Json::array()}}}, {"traceEvents", Json::array()}};
  for (const Json& trace : traces) {
    for (const Json& rank : trace.at("otherData").at("ranks")) merged["otherData"]["ranks"].push_back(rank);
    for (const Json& event : trace.at("traceEvents")) merged["traceEvents"].push_back(event);
  }
  return merged;
}

void write_chrome_trace(const std::filesystem::path& path, const Json& trace) {
  std::string text = fmt::format("{{\"displayTimeUnit\":{},\n\"otherData\":{},\n\"traceEvents\":[",
                                 trace.at("displayTimeUnit").dump(), trace.at("otherData").dump());
  const char* separator = "\n";
  for (const Json& event : trace.at("traceEvents")) {
    text += separator + event.dump();
    separator = ",\n";
  }
  data::write_file_durably(path, std::string_view(text += "\n]}\n"));
}

Json read_chrome_trace(const std::filesystem::path& path) {
  Json trace = Json::parse(data::read_text_file(path), /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!trace.is_object() || !trace.contains("otherData") || !trace.contains("traceEvents"))
    throw data::DataError(path, "is no timeline of a rank");
  return trace;
}

}  // namespace perrin::trainer
