#include "launch/commands/trace_option.hpp"

#include <fmt/format.h>

#include <charconv>
#include <string_view>

#include "launch/usage_error.hpp"

namespace perrin::launch {
namespace {

// A timeline takes some 20 kB a step and rank, and no viewer shows more at once.
constexpr std::int64_t kMostSteps = 1000;

std::optional<std::int64_t> whole_number(std::string_view text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

}  // namespace

std::optional<trainer::TraceSteps> read_trace_steps(const std::string& text, std::int64_t run_steps) {
  if (text.empty()) return std::nullopt;
  constexpr std::string_view kKey = "steps=";
  const std::string_view range = std::string_view(text).substr(text.starts_with(kKey) ? kKey.size() : text.size());
  const std::size_t dash = range.find('-');
  const auto first = whole_number(range.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : whole_number(range.substr(dash + 1));
  const auto refuse = [&](const std::string& reason) { throw UsageError(fmt::format("--trace {}: {}", text, reason)); };
  if (!first || !last) refuse("takes a range of steps, as in --trace steps=10-12");
  if (*first < 1) refuse("steps count from 1");
  if (*first > *last) refuse("the last step is before the first");
  if (*last > run_steps) refuse(fmt::format("the run ends at step {} (train.steps)", run_steps));
  if (*last - *first >= kMostSteps) refuse(fmt::format("a timeline shows {} steps at most", kMostSteps));
  return trainer::TraceSteps{*first, *last};
}

}  // namespace perrin::launch
