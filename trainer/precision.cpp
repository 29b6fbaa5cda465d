#include "trainer/precision.hpp"

#include <string>

#if PERRIN_HAS_CUDA
#include <ATen/cuda/CUDAContext.h>
#endif

namespace perrin::trainer {

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

at::ScalarType compute_type(Precision precision, at::Device device) {
  const bool bf16 = precision == Precision::bf16 || (precision == Precision::automatic && multiplies_bfloat16(device));
  return bf16 ? at::kBFloat16 : at::kFloat;
}

std::string chosen_type(Precision asked, at::ScalarType chosen, at::Device device) {
  const std::string name = chosen == at::kFloat ? "fp32" : "bf16";
  if (asked != Precision::automatic) return name;
  if (chosen == at::kBFloat16) return name + " (auto: " + device.str() + " has bfloat16 instructions)";
  return name + " (auto: " + (multiplies_bfloat16(device) ? "another rank" : device.str()) +
         " has no bfloat16 instructions)";
}

}  // namespace perrin::trainer
