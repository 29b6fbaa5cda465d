#include "launch/work_progress.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace perrin::launch {
namespace {

constexpr double kPaceSeconds = 30;
constexpr double kTerminalSeconds = 0.2;
constexpr double kLogSeconds = 30;

}  // namespace

void Pace::note(double seconds, std::uint64_t done) {
  notes_.emplace_back(seconds, done);
  while (notes_.size() > 2 && notes_[1].first <= seconds - kPaceSeconds) notes_.pop_front();
}

std::optional<double> Pace::rate() const {
  if (notes_.size() < 2) return std::nullopt;
  const auto& [first_seconds, first_done] = notes_.front();
  const auto& [last_seconds, last_done] = notes_.back();
  if (last_done <= first_done || last_seconds <= first_seconds) return std::nullopt;
  return static_cast<double>(last_done - first_done) / (last_seconds - first_seconds);
}

std::string format_work(std::uint64_t done, std::uint64_t total, std::optional<double> rate, const ProgressUnit& unit) {
  const auto count = [&](std::uint64_t value) { return fmt::format("{:.0f}", static_cast<double>(value) / unit.size); };
  std::string text =
      fmt::format("{}/{} {} ({:.0f} %)", count(done), count(total), unit.name,
                  100.0 * static_cast<double>(done) / static_cast<double>(std::max<std::uint64_t>(total, 1)));
  if (rate) {
    text += fmt::format("  {:.1f} {}/s", *rate / unit.size, unit.name);
    if (done < total)
      text += fmt::format("  {} left", trainer::format_duration(static_cast<double>(total - done) / *rate));
  }
  return text;
}

void WorkProgress::show(std::uint64_t done, std::uint64_t total) {
  const Clock::time_point now = Clock::now();
  const double since_last = std::chrono::duration<double>(now - shown_).count();
  const bool is_last = line_.on_terminal() && done == total;
  if (since_last < (line_.on_terminal() ? kTerminalSeconds : kLogSeconds) && !is_last) return;
  shown_ = now;
  pace_.note(std::chrono::duration<double>(now - begun_).count(), done);
  line_.show(format_work(done, total, pace_.rate(), unit_));
}

}  // namespace perrin::launch
