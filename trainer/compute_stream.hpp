#pragma once

#include <c10/core/Device.h>

namespace perrin::trainer {

/// The stream on which LibTorch runs this thread's operators, as comm takes it (a cudaStream_t); null for the CPU.
void* compute_stream(at::Device device);

}  // namespace perrin::trainer
