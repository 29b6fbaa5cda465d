#include "launch/device.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <spdlog/spdlog.h>

#include <optional>

#include "launch/cpu_share.hpp"

namespace perrin::launch {

at::Device bind_device(const trainer::DistributedConfig& config, comm::World& world) {
  const std::optional<int> gpu =
      world.use_device(config.device, config.share_gpu ? comm::DeviceSharing::allowed : comm::DeviceSharing::refused);
  const int share = share_of_cpus(world);
  const int threads = config.threads > 0 ? static_cast<int>(config.threads) : share;
  if (threads > share) {
    spdlog::warn("distributed.threads = {}, but this rank's share is {} CPU{}: its threads will wait for each other",
                 threads, share, share == 1 ? "" : "s");
  }
  // One operator at a time: between operators LibTorch would start a second pool as large as the first.
  at::set_num_threads(threads);
  at::set_num_interop_threads(1);
  if (gpu) {
    // fp32 means fp32, and the same run gives the same bits. Both cost speed; neither has been measured on a GPU yet.
    at::globalContext().setAllowTF32CuDNN(false);
    at::globalContext().setDeterministicCuDNN(true);
    at::globalContext().setSDPUseMemEfficient(false);
  }
  return gpu ? at::Device(at::kCUDA, static_cast<at::DeviceIndex>(*gpu)) : at::Device(at::kCPU);
}

}  // namespace perrin::launch
