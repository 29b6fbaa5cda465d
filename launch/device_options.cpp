#include "launch/device_options.hpp"

namespace perrin::launch {

trainer::DistributedConfig DeviceOptions::config() const {
  trainer::DistributedConfig config;
  config.device = device == "cpu"    ? comm::DeviceChoice::cpu
                  : device == "cuda" ? comm::DeviceChoice::cuda
                                     : comm::DeviceChoice::automatic;
  config.share_gpu = share_gpu;
  return config;
}

void add_device_options(CLI::App& app, DeviceOptions& options, const std::string& what) {
  app.add_option("--device", options.device, what)
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}).description(""))
      ->type_name("auto|cpu|cuda")
      ->capture_default_str();
  app.add_flag("--share-gpu", options.share_gpu, "Let ranks of a node have one GPU: a test, not of speed");
}

}  // namespace perrin::launch
