// The CUDA runtime on the host: devices, memory, streams and events.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "tests/comm/host_gpu/cuda_objects.hpp"
#include "tests/comm/host_gpu/settings.hpp"

namespace perrin::host_gpu {
namespace {

thread_local int t_device = 0;

bool exists(int device) { return device >= 0 && device < device_count(); }

std::mutex g_streams_mutex;
std::set<cudaStream_t>& streams() {
  static std::set<cudaStream_t> all;
  return all;
}

cudaError_t allocate(void** memory, std::size_t bytes) {
  constexpr std::size_t kAlignment = 256;  // that of cudaMalloc
  *memory =
      std::aligned_alloc(kAlignment, (std::max<std::size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment);
  if (*memory == nullptr) return cudaErrorMemoryAllocation;
  ++counters().buffers;
  return cudaSuccess;
}

}  // namespace

TaskQueue& queue_of(cudaStream_t stream) {
  static CUstream_st default_stream;
  return stream == nullptr ? default_stream.queue : stream->queue;
}

}  // namespace perrin::host_gpu

using namespace perrin::host_gpu;

extern "C" {

const char* cudaGetErrorString(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNotReady:
      return "device not ready";
    default:
      return "unrecognized error code";
  }
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count();
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDevice(int* device) {
  *device = t_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (!exists(device)) return cudaErrorInvalidDevice;
  t_device = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (!exists(device)) return cudaErrorInvalidDevice;
  std::snprintf(text, static_cast<std::size_t>(length), "0000:%02x:00.0", 0x10 + device);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) { return allocate(memory, bytes); }
cudaError_t cudaMallocManaged(void** memory, std::size_t bytes, unsigned int) { return allocate(memory, bytes); }

cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  {
    const std::lock_guard lock(g_streams_mutex);
    for (cudaStream_t stream : streams()) stream->queue.drain();
  }
  std::free(memory);
  --counters().buffers;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  *lowest = 0;
  *highest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int, int) {
  *stream = new CUstream_st;
  const std::lock_guard lock(g_streams_mutex);
  streams().insert(*stream);
  ++counters().streams;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  {
    const std::lock_guard lock(g_streams_mutex);
    if (streams().erase(stream) == 0) return cudaErrorInvalidValue;
  }
  delete stream;
  --counters().streams;
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) { return queue_of(stream).idle() ? cudaSuccess : cudaErrorNotReady; }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  queue_of(stream).drain();
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  queue_of(stream).push([function, data] { function(data); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  *event = new CUevent_st;
  ++counters().events;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  --counters().events;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::shared_ptr<EventState> state = event->state;
  std::uint64_t record = 0;
  {
    const std::lock_guard lock(state->mutex);
    record = ++state->recorded;
  }
  queue_of(stream).push([state, record] {
    {
      const std::lock_guard lock(state->mutex);
      state->done = std::max(state->done, record);
    }
    state->reached.notify_all();
  });
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(event->state->mutex);
  return event->state->done >= event->state->recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  const std::shared_ptr<EventState> state = event->state;
  std::uint64_t record = 0;
  {
    const std::lock_guard lock(state->mutex);
    record = state->recorded;
  }
  queue_of(stream).push([state, record] {
    std::unique_lock lock(state->mutex);
    state->reached.wait(lock, [&] { return state->done >= record; });
  });
  return cudaSuccess;
}

}  // extern "C"
