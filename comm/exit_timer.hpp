#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace perrin::comm {

/// Ends the process with _exit(code) and one line on stderr unless it is destroyed in time: the deadline of calls that
/// cannot be interrupted, such as MPI_Init, MPI_Finalize and MPI_Abort. Its thread calls nothing that could hang.
class ExitTimer {
 public:
  ExitTimer(std::chrono::milliseconds deadline, int code, std::string what);
  ExitTimer(const ExitTimer&) = delete;
  ExitTimer& operator=(const ExitTimer&) = delete;
  ~ExitTimer();

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool cancelled_ = false;
  std::thread thread_;
};

}  // namespace perrin::comm
