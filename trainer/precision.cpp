#include "trainer/precision.hpp"

#if PERRIN_HAS_CUDA
#include <ATen/cuda/CUDAContext.h>
#endif

namespace perrin::trainer {
namespace {

bool multiplies_bfloat16(at::Device device) {
#if PERRIN_HAS_CUDA
  if (device.is_cuda()) return at::cuda::getDeviceProperties(device.index())->major >= 8;
#endif
#ifdef __x86_64__
  return device.is_cpu() && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace

at::ScalarType compute_type(Precision precision, at::Device device) {
  const bool bf16 = precision == Precision::bf16 || (precision == Precision::automatic && multiplies_bfloat16(device));
  return bf16 ? at::kBFloat16 : at::kFloat;
}

}  // namespace perrin::trainer
