#pragma once

#include <cstdint>
#include <string>

namespace perrin::trainer {

/// What a person wants to see of a running training.
struct ProgressReport {
  std::int64_t step = 0, steps = 0;
  double loss = 0;               ///< mean since the last report
  double images_per_second = 0;  ///< of all ranks together
  double ema_age = 0;            ///< updates that the EMA remembers: 1 / (1 - decay)
  double seconds_left = 0;       ///< until the last step or the end of the time budget
};

/// "1:02:03", or "2:03" below an hour.
std::string format_duration(double seconds);

/// One line, the same words on a terminal and in a log.
std::string format_progress(const ProgressReport& report);

/// Shows the progress of long work: one line rewritten in place where a person watches, a log line elsewhere.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// Whether a person watches.
  bool on_terminal() const noexcept { return on_terminal_; }
  void show(const std::string& text);
  /// Ends the rewritten line, so that a log line may follow.
  void interrupt();

 private:
  bool on_terminal_;
  std::size_t shown_ = 0;  // characters on the line now
};

}  // namespace perrin::trainer
