// Builds without CUDA: there is no device, and nothing that needs one is reached.
#include "comm/comm_error.hpp"
#include "comm/device.hpp"
#include "comm/nccl_communicator.hpp"

namespace perrin::comm {
namespace {

CommError not_built_in() {
  return CommError(OperationId{.operation = "start"},
                   "this build has no CUDA. Install the CUDA toolkit and NCCL, then build with --preset cuda.");
}

}  // namespace

int device_count() { return 0; }

bool built_with_cuda() noexcept { return false; }

std::string device_bus_id(int /*device*/) { throw not_built_in(); }

void make_device_current(int /*device*/) { throw not_built_in(); }

void let_nccl_share_devices(int /*rank*/, bool /*one_node*/) { throw not_built_in(); }

std::string device_versions() { return {}; }

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& /*control*/, int /*device*/,
                                                     const CommunicatorOptions& /*options*/) {
  throw not_built_in();
}

}  // namespace perrin::comm
