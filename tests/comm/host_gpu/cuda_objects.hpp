// What cudaStream_t and cudaEvent_t point to.
#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "tests/comm/host_gpu/task_queue.hpp"

struct CUstream_st {
  perrin::host_gpu::TaskQueue queue;
};

namespace perrin::host_gpu {

/// Shared with the streams that have yet to reach it: cudaEventDestroy may come before that.
struct EventState {
  std::mutex mutex;
  std::condition_variable reached;
  std::uint64_t recorded = 0;  ///< records enqueued
  std::uint64_t done = 0;      ///< the last record that its stream has reached
};

/// The queue of a stream; of the default stream for nullptr.
TaskQueue& queue_of(cudaStream_t stream);

}  // namespace perrin::host_gpu

struct CUevent_st {
  std::shared_ptr<perrin::host_gpu::EventState> state = std::make_shared<perrin::host_gpu::EventState>();
};
