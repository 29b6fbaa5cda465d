// A run in which one rank meets a fault while the others wait for it. main() treats errors as that of perrin does.
// fault_program FAULT [FOLDER of the flight records [MILLISECONDS until the fault]]
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <vector>

#include "comm/comm_error.hpp"
#include "comm/world.hpp"

namespace {

using namespace std::chrono_literals;
using perrin::comm::ReduceOp;
using perrin::comm::Work;
using perrin::comm::World;

constexpr int kErrorCode = 23;

/// Steps over NCCL on the host until the fault comes that PERRIN_HOST_GPU_FAULT plans.
void step_over_nccl(World& world) {
  world.use_device(perrin::comm::DeviceChoice::cuda);
  std::vector<float> bucket(100'000, 1.0f);
  for (;;) world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum).wait();
}

/// Steps until the fault comes over rank 1 at a moment of its own.
void step_until_fault(World& world, std::string_view fault, std::chrono::milliseconds moment) {
  std::vector<float> bucket(100'000, 1.0f);
  std::atomic<bool> must_throw{false};
  std::jthread trouble;
  if (world.rank() == 1) {
    trouble = std::jthread([&] {
      std::this_thread::sleep_for(moment);
      if (fault == "killed_at") ::kill(::getpid(), SIGKILL);
      if (fault == "stopped_at") ::kill(::getpid(), SIGSTOP);
      must_throw = fault == "throws_at";
    });
  }
  for (;;) {
    Work sum = world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum);
    std::this_thread::sleep_for(1ms);
    if (must_throw) throw std::runtime_error("thrown at a random moment");
    sum.wait();
    world.control().barrier().wait();
  }
}

void run(World& world, std::string_view fault) {
  std::vector<float> bucket(1'000'000, 1.0f);
  for (int step = 0; step < 3; ++step) world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum).wait();
  if (fault == "pending_without_waiting") {  // leaves with an operation that nobody else joins
    if (world.rank() != 1) return;
    Work work = world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum);
    throw std::runtime_error("thrown with an operation under way");
  }
  if (fault == "unwaited") {  // nobody waits with a deadline
    if (world.rank() == 1) std::raise(SIGSTOP);
    const Work work = world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum);
    std::this_thread::sleep_for(60s);
  }
  if (fault == "other_size") {
    const std::size_t count = world.rank() == 1 ? 500'000 : bucket.size();
    world.gradients().all_reduce(std::span<float>(bucket.data(), count), ReduceOp::sum).wait();
  }
  if (fault == "withdraws") {  // rank 1 takes its memory back before the others read it
    if (world.rank() == 1) {
      const std::size_t bytes = 4'000'000;
      auto memory = std::make_unique<std::vector<float>>(bytes / sizeof(float), 1.0f);  // given back to the system
      std::vector<float> all(memory->size() * static_cast<std::size_t>(world.size()));
      try {
        const Work work = world.gradients().all_gather(std::span<const float>(*memory), std::span<float>(all));
        throw std::runtime_error("the caller's own trouble");
      } catch (const std::runtime_error&) {
        memory.reset();
      }
      std::this_thread::sleep_for(1s);  // the others find its message now, and ask for the rest
      world.control().barrier().wait();
    }
    std::this_thread::sleep_for(1500ms);
    std::vector<float> own(1'000'000), all(own.size() * static_cast<std::size_t>(world.size()));
    world.gradients().all_gather(std::span<const float>(own), std::span<float>(all)).wait();
  }
  if (world.rank() == 1) {
    if (fault == "throws") throw std::runtime_error("thrown in the middle of a step");
    if (fault == "killed") std::raise(SIGKILL);
    if (fault == "stopped") std::raise(SIGSTOP);
    if (fault == "absent") std::this_thread::sleep_for(60s);
  }
  Work first = world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum);
  Work second = world.control().barrier();
  second.wait();
  first.wait();
}

int report(const World& world, const std::exception& error) {
  std::fprintf(stderr, "error: rank %d: %s\n", world.rank(), error.what());
  return dynamic_cast<const perrin::comm::CommError*>(&error) != nullptr ? perrin::comm::kCommExitCode : kErrorCode;
}

/// The World outlives the try block: the way of perrin's main().
int orderly(std::string_view fault, const char* folder, std::chrono::milliseconds moment) {
  World world = World::from_environment({.communicator = {.deadline = 3s}});
  try {
    if (folder != nullptr) {
      if (const std::string reason = world.record_flight_in(folder); !reason.empty()) throw std::runtime_error(reason);
    }
    world.enter(perrin::comm::Phase::step);
    if (fault == "nccl") step_over_nccl(world);
    fault.ends_with("_at") ? step_until_fault(world, fault, moment) : run(world, fault);
    return 0;
  } catch (const std::exception& error) {
    const int code = report(world, error);
    world.record_failure(code, error.what());
    world.abort(code);
  }
}

/// The exception unwinds through the World.
int unwinding() {
  try {
    World world = World::from_environment({.communicator = {.deadline = 30s}});
    run(world, "throws");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return kErrorCode;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view fault = argc > 1 ? argv[1] : "none";
  const std::chrono::milliseconds moment(argc > 3 ? std::atoi(argv[3]) : 0);
  try {
    return fault == "unwinds" ? unwinding() : orderly(fault, argc > 2 ? argv[2] : nullptr, moment);
  } catch (const perrin::comm::CommError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return kErrorCode;
  }
}
