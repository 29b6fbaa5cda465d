#include "trainer/compute_stream.hpp"

#if PERRIN_HAS_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace perrin::trainer {

void* compute_stream([[maybe_unused]] at::Device device) {
#if PERRIN_HAS_CUDA
  if (device.is_cuda()) return c10::cuda::getCurrentCUDAStream(device.index()).stream();
#endif
  return nullptr;
}

}  // namespace perrin::trainer
