#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "comm/flight_recorder.hpp"

namespace perrin::comm {

/// Exit code of a process that the Watchdog ends.
inline constexpr int kWatchdogExitCode = 69;

/// Ends the process when a communicator has operations under way and makes no progress for the deadline of the phase
/// and kGrace more, although nobody waits for them: a rank that computes, or waits on a device, while a peer is
/// stopped. Callers that wait are told first, by their own deadline, with the better message. Its thread calls neither
/// MPI nor CUDA and takes no lock that could be held by one who does; it only says so on stderr and leaves by _exit.
class Watchdog {
 public:
  static constexpr std::chrono::milliseconds kGrace{3'000};

  explicit Watchdog(std::shared_ptr<FlightRecorder> recorder);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog();

 private:
  void run();

  std::shared_ptr<FlightRecorder> recorder_;
  std::mutex mutex_;
  std::condition_variable over_;
  bool closing_ = false;
  std::thread thread_;
};

}  // namespace perrin::comm
