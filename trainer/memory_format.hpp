#pragma once

#include <c10/core/Device.h>
#include <c10/core/MemoryFormat.h>

namespace perrin::trainer {

/// How convolution weights and activations lie in memory on a device: channels-last on CUDA, as cuDNN advises
/// (not measured here); contiguous on the CPU, where LibTorch 2.11's GroupNorm in channels-last costs narrow networks
/// up to a third of the step (docs/performance.md).
inline at::MemoryFormat memory_format_for(at::Device device) {
  return device.is_cpu() ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
}

}  // namespace perrin::trainer
