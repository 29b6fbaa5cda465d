// NCCL, in managed memory of the rank's device: real ones, or the host implementation.
#include "comm/cuda_handles.hpp"
#include "comm/nccl_communicator.hpp"
#include "tests/comm/backend.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm::test {
namespace {

int device() {
  World& world = perrin::test::world();
  return device_of_rank(device_count(), world.local_rank()).value();
}

}  // namespace

std::unique_ptr<Communicator> make_communicator(const CommunicatorOptions& options) {
  return make_nccl_communicator(perrin::test::world().control(), device(), options);
}

std::shared_ptr<std::byte> allocate(std::size_t bytes) {
  const DeviceGuard guard(device());
  void* memory = nullptr;
  require_cuda(cudaMallocManaged(&memory, bytes == 0 ? 1 : bytes, cudaMemAttachGlobal), "cudaMallocManaged");
  return {static_cast<std::byte*>(memory), [](std::byte* data) { cudaFree(data); }};
}

bool aligns_elements() { return true; }

}  // namespace perrin::comm::test
