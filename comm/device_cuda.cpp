#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nccl.h>

#include <cstdlib>
#include <utility>

#include "comm/comm_error.hpp"
#include "comm/cuda_handles.hpp"
#include "comm/device.hpp"

namespace perrin::comm {

void require_cuda(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  throw CommError(OperationId{.operation = "device"}, fmt::format("{} failed with CUDA error {}: {}", call,
                                                                  static_cast<int>(code), cudaGetErrorString(code)));
}

DeviceGuard::DeviceGuard(int device) {
  require_cuda(cudaGetDevice(&previous_), "cudaGetDevice");
  require_cuda(cudaSetDevice(device), "cudaSetDevice");
}

CudaStream::CudaStream() {
  int lowest = 0;
  int highest = 0;
  require_cuda(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
  require_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, highest), "cudaStreamCreateWithPriority");
}

int device_count() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  // cudaErrorInsufficientDriver (35) is what a machine without a driver answers.
  if (code == cudaErrorInsufficientDriver || code == cudaErrorNoDevice) {
    cudaGetLastError();  // the runtime would report it again to the next caller
    return 0;
  }
  require_cuda(code, "cudaGetDeviceCount");
  return count;
}

bool built_with_cuda() noexcept { return true; }

std::string device_bus_id(int device) {
  char bus_id[32] = {};
  require_cuda(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), device), "cudaDeviceGetPCIBusId");
  return bus_id;
}

void let_nccl_share_devices(int rank, bool one_node) {
  const std::string host = fmt::format("perrin-rank-{}", rank);
  const std::pair<const char*, const char*> settings[] = {
      {"NCCL_HOSTID", host.c_str()}, {"NCCL_NET", "Socket"},
      {"NCCL_IB_DISABLE", "1"},      {"NCCL_SOCKET_FAMILY", "AF_INET"},
      {"NCCL_MNNVL_ENABLE", "0"},    {"NCCL_NVLS_ENABLE", "0"},
      {"NCCL_MAX_CTAS", "2"}};
  for (const auto& [name, value] : settings) ::setenv(name, value, /*overwrite=*/1);
  if (one_node) ::setenv("NCCL_SOCKET_IFNAME", "=lo", /*overwrite=*/1);
}

void make_device_current(int device) { require_cuda(cudaSetDevice(device), "cudaSetDevice"); }

std::string device_versions() {
  int runtime = 0;
  int driver = 0;
  int nccl = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  ncclGetVersion(&nccl);
  const std::string driver_text = driver == 0 ? "none" : fmt::format("{}.{}", driver / 1000, driver % 1000 / 10);
  return fmt::format("CUDA runtime {}.{}, driver {}, NCCL {}.{}.{}", runtime / 1000, runtime % 1000 / 10, driver_text,
                     nccl / 10000, nccl % 10000 / 100, nccl % 100);
}

}  // namespace perrin::comm
