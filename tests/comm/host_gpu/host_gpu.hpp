// A GPU machine on the host: the calls of the CUDA runtime and of NCCL that comm/ makes, linked in place of the two
// libraries, so that the NCCL backend runs, and fails, on any machine. The model:
//
//   streams        a queue and a thread each; work runs in order and asynchronously to the caller (task_queue.hpp)
//   events         count their records; a wait is for the record that was the last when the wait was enqueued
//   device memory  is host memory; cudaFree waits for all streams, as the real one does
//   communicators  only non-blocking ones. NCCL rank r is rank r of MPI_COMM_WORLD. A call is taken in by a thread of
//                  the communicator, and reaches the stream only when ncclInProgress is over; a call made before that
//                  is refused. An event recorded too early is therefore over too early, and a test sees wrong data
//   data           travel over MPI point-to-point messages on an own duplicate of MPI_COMM_WORLD, tagged by
//                  communicator. They are copied on the way in and out: after an abort nothing touches a caller's
//                  buffer
//
// A process that ends in an orderly way with something still alive leaves with kLeakExitCode.
#pragma once

#include <chrono>
#include <string>

namespace perrin::host_gpu {

enum class Fault {
  none,
  never_joins,         ///< the rank never answers the others while the communicator comes up
  init_fails,          ///< the communicator does not come up on the rank, which is told so
  never_completes,     ///< a collective of the rank stays on its stream until the communicator is aborted
  asynchronous_error,  ///< the same, and ncclCommGetAsyncError tells of an error
  abort_hangs,         ///< a collective never completes, and ncclCommAbort never returns
};

/// What goes wrong, where and when.
struct FaultPlan {
  Fault fault = Fault::none;
  int rank = 0;
  int after_operations = 0;  ///< for the faults of collectives: how many of each communicator still go well
};

/// For communicators made from now on. Before the first call the plan is that of the environment variable
/// PERRIN_HOST_GPU_FAULT, "fault:rank:after_operations", for example "never_completes:1:3".
void inject(const FaultPlan& plan);
FaultPlan planned_fault();

/// The number of visible devices, 8 at first, each with an own PCI bus id.
void set_device_count(int count);
/// What ncclGetVersion tells; 0 is the version of the headers.
void set_library_version(int version);
/// How long NCCL takes a call in before it reaches the stream; 300 us at first.
void set_launch_delay(std::chrono::microseconds delay);

/// What has been made and not yet destroyed.
struct Alive {
  int communicators = 0;
  int streams = 0;
  int events = 0;
  int buffers = 0;
  bool operator==(const Alive&) const = default;
};
Alive alive();
std::string describe(const Alive& alive);

constexpr int kLeakExitCode = 86;

}  // namespace perrin::host_gpu
