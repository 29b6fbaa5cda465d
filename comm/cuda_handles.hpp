#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

namespace perrin::comm {

/// @throws CommError ("device", sequence 0) naming the call and CUDA's own text, unless the code is cudaSuccess
void require_cuda(cudaError_t code, const char* call);

/// Makes a device current on this thread for a scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  ~DeviceGuard() { cudaSetDevice(previous_); }

 private:
  int previous_ = 0;
};

/// An event without timing on the current device.
class CudaEvent {
 public:
  CudaEvent() { require_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags"); }
  CudaEvent(CudaEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  CudaEvent& operator=(CudaEvent&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~CudaEvent() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  cudaEvent_t get() const noexcept { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// A stream of the highest priority on the current device, independent of the default stream.
class CudaStream {
 public:
  CudaStream();
  CudaStream(CudaStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  CudaStream& operator=(CudaStream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~CudaStream() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const noexcept { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Bytes of device memory.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t bytes) { require_cuda(cudaMalloc(&data_, bytes), "cudaMalloc"); }
  DeviceBuffer(DeviceBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) cudaFree(data_);
  }
  void* get() const noexcept { return data_; }

 private:
  void* data_ = nullptr;
};

}  // namespace perrin::comm
