#include "comm/exit_timer.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

namespace perrin::comm {

ExitTimer::ExitTimer(std::chrono::milliseconds deadline, int code, std::string what)
    : thread_([this, deadline, code,
               line = fmt::format("error: {} took longer than {} ms; this process leaves with code {}\n",
                                  std::move(what), deadline.count(), code)] {
        std::unique_lock lock(mutex_);
        if (over_.wait_for(lock, deadline, [this] { return cancelled_; })) return;
        [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
        ::_exit(code);
      }) {}

ExitTimer::~ExitTimer() {
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
  }
  over_.notify_one();
  thread_.join();
}

}  // namespace perrin::comm
