#pragma once

#include <c10/core/Device.h>

#include "comm/world.hpp"
#include "trainer/config.hpp"

namespace perrin::launch {

/// Binds this rank to its GPU or to its share of the CPUs, and sets LibTorch's threads to that share. Collective; call
/// it once, before any tensor is made. @throws comm::CommError where the device that was asked for is missing or shared
at::Device bind_device(const trainer::DistributedConfig& config, comm::World& world);

}  // namespace perrin::launch
