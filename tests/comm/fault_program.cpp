// A run in which one rank meets a fault while the others wait for it. main() treats errors as that of perrin does.
#include <csignal>
#include <cstdio>
#include <exception>
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

void run(World& world, std::string_view fault) {
  std::vector<float> bucket(1'000'000, 1.0f);
  for (int step = 0; step < 3; ++step) world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum).wait();
  if (fault == "pending_without_waiting") {  // leaves with an operation that nobody else joins
    if (world.rank() != 1) return;
    Work work = world.gradients().all_reduce(std::span<float>(bucket), ReduceOp::sum);
    throw std::runtime_error("thrown with an operation under way");
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
  return kErrorCode;
}

/// The World outlives the try block: the way of perrin's main().
int orderly(std::string_view fault) {
  World world = World::from_environment({.communicator = {.deadline = 3s}});
  try {
    run(world, fault);
    return 0;
  } catch (const std::exception& error) {
    world.abort(report(world, error));
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
  try {
    return fault == "unwinds" ? unwinding() : orderly(fault);
  } catch (const perrin::comm::CommError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return kErrorCode;
  }
}
