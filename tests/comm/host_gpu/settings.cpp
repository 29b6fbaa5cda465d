#include "tests/comm/host_gpu/settings.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>

#include "tests/comm/host_gpu/host_gpu.hpp"

namespace perrin::host_gpu {
namespace {

constexpr std::array<std::string_view, 6> kFaultNames{
    "none", "never_joins", "init_fails", "never_completes", "asynchronous_error", "abort_hangs"};

/// A plan that nobody understands must not pass for a run without faults.
[[noreturn]] void refuse(const std::string& text) {
  std::fprintf(stderr, "error: PERRIN_HOST_GPU_FAULT='%s' is not fault:rank:after_operations\n", text.c_str());
  std::_Exit(2);
}

FaultPlan plan_of_environment() {
  const char* value = std::getenv("PERRIN_HOST_GPU_FAULT");
  if (value == nullptr) return {};
  const std::string text = value;
  const std::string name = text.substr(0, text.find(':'));
  FaultPlan plan;
  if (std::sscanf(text.c_str() + name.size(), ":%d:%d", &plan.rank, &plan.after_operations) != 2) refuse(text);
  for (std::size_t i = 0; i < kFaultNames.size(); ++i) {
    if (kFaultNames[i] != name) continue;
    plan.fault = static_cast<Fault>(i);
    return plan;
  }
  refuse(text);
}

std::mutex g_plan_mutex;

FaultPlan& plan() {
  static FaultPlan value = plan_of_environment();
  return value;
}

std::atomic<int> g_device_count{8};
std::atomic<int> g_library_version{0};
std::atomic<std::chrono::microseconds> g_launch_delay{std::chrono::microseconds(300)};

/// Destroyed after main(), when everything should be gone.
struct LeakCheck {
  ~LeakCheck() {
    const Alive rest = alive();
    if (rest == Alive{}) return;
    std::fprintf(stderr, "error: alive at the end of the process: %s\n", describe(rest).c_str());
    std::fflush(nullptr);
    ::_exit(kLeakExitCode);
  }
};

}  // namespace

Counters& counters() {
  static Counters& value = *new Counters;  // outlives every static object
  static const LeakCheck check;
  return value;
}

int device_count() { return g_device_count; }
int library_version() { return g_library_version; }
std::chrono::microseconds launch_delay() { return g_launch_delay; }

void inject(const FaultPlan& next) {
  const std::lock_guard lock(g_plan_mutex);
  plan() = next;
}

FaultPlan planned_fault() {
  const std::lock_guard lock(g_plan_mutex);
  return plan();
}

void set_device_count(int count) { g_device_count = count; }
void set_library_version(int version) { g_library_version = version; }
void set_launch_delay(std::chrono::microseconds delay) { g_launch_delay = delay; }

Alive alive() {
  const Counters& now = counters();
  return {now.communicators, now.streams, now.events, now.buffers};
}

std::string describe(const Alive& alive) {
  return fmt::format("{} communicators, {} streams, {} events, {} buffers", alive.communicators, alive.streams,
                     alive.events, alive.buffers);
}

}  // namespace perrin::host_gpu
