#include "trainer/telemetry/progress_line.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace perrin::trainer {
namespace {

/// Whether a person sees what is printed here. Under mpirun a rank's own stdout tells nothing: Open MPI gives it a
/// pseudo-terminal even when mpirun itself writes to a file, so the question goes to mpirun's stdout.
bool watched_by_a_person() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return ::isatty(STDOUT_FILENO) == 1;
  std::error_code error;
  const auto target = std::filesystem::read_symlink("/proc/" + std::to_string(::getppid()) + "/fd/1", error).string();
  return !error && (target.starts_with("/dev/pts/") || target.starts_with("/dev/tty"));
}

}  // namespace

std::string format_duration(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::max(0.0, std::round(seconds)));
  const std::int64_t hours = whole / 3600, minutes = whole / 60 % 60, rest = whole % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, rest) : fmt::format("{}:{:02}", minutes, rest);
}

std::string format_progress(const ProgressReport& report) {
  return fmt::format(
      "step {}/{} ({:.0f} %)  loss {:.4f}  {:.1f} images/s  EMA over {:.0f} updates  {} left", report.step,
      report.steps,
      100.0 * static_cast<double>(report.step) / static_cast<double>(std::max<std::int64_t>(report.steps, 1)),
      report.loss, report.images_per_second, report.ema_age, format_duration(report.seconds_left));
}

ProgressLine::ProgressLine() : on_terminal_(watched_by_a_person()) {}

ProgressLine::~ProgressLine() { interrupt(); }

void ProgressLine::show(const std::string& text) {
  if (!on_terminal_) {
    spdlog::info("{}", text);
    return;
  }
  // Blanks cover what a longer line before left behind.
  fmt::print("\r{}{}", text, std::string(shown_ > text.size() ? shown_ - text.size() : 0, ' '));
  std::fflush(stdout);
  shown_ = text.size();
}

void ProgressLine::interrupt() {
  if (shown_ == 0) return;
  fmt::print("\n");
  std::fflush(stdout);
  shown_ = 0;
}

}  // namespace perrin::trainer
