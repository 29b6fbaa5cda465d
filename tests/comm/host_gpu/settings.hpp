// What the tests have set (host_gpu.hpp) and what is alive, for the implementation's own use.
#pragma once

#include <atomic>
#include <chrono>

namespace perrin::host_gpu {

struct Counters {
  std::atomic<int> communicators{0};
  std::atomic<int> streams{0};
  std::atomic<int> events{0};
  std::atomic<int> buffers{0};
};
Counters& counters();

int device_count();
int library_version();
std::chrono::microseconds launch_delay();

}  // namespace perrin::host_gpu
