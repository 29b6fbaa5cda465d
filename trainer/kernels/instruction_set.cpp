#include "trainer/kernels/instruction_set.hpp"

namespace perrin::trainer {

bool supports(InstructionSet set) noexcept {
  switch (set) {
    case InstructionSet::portable:
      return true;
#if defined(__x86_64__)
    case InstructionSet::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    case InstructionSet::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
#endif
    default:
      return false;
  }
}

InstructionSet best_instruction_set() noexcept {
  static const InstructionSet kBest = supports(InstructionSet::avx512) ? InstructionSet::avx512
                                      : supports(InstructionSet::avx2) ? InstructionSet::avx2
                                                                       : InstructionSet::portable;
  return kBest;
}

}  // namespace perrin::trainer
