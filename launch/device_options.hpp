#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "trainer/config.hpp"

namespace perrin::launch {

/// --device and --share-gpu of the commands that have no configuration.
struct DeviceOptions {
  std::string device = "auto";
  bool share_gpu = false;

  trainer::DistributedConfig config() const;
};

/// @param options  outlives the parsing   @param what  the ranks' use of the device, for --help
void add_device_options(CLI::App& app, DeviceOptions& options, const std::string& what);

}  // namespace perrin::launch
