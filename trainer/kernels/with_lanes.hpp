#pragma once

#include "trainer/kernels/instruction_set.hpp"

namespace perrin::trainer {

struct PortableLanes;
struct Avx2Lanes;
struct Avx512Lanes;

/// Calls work.operator()<Lanes>() with the lanes of the instruction set.
template <typename Work>
void with_lanes(InstructionSet set, const Work& work) {
#if defined(__x86_64__)
  if (set == InstructionSet::avx512) return work.template operator()<Avx512Lanes>();
  if (set == InstructionSet::avx2) return work.template operator()<Avx2Lanes>();
#endif
  work.template operator()<PortableLanes>();
}

}  // namespace perrin::trainer
