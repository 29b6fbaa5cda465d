#pragma once

namespace perrin::trainer {

/// What a kernel may use. Every kernel gives the same bits with each.
enum class InstructionSet {
  portable,  ///< plain C++
  avx2,      ///< x86-64-v3: AVX2 and FMA
  avx512,    ///< x86-64-v4: AVX-512 F, BW, CD, DQ, VL
};

/// Whether this processor, and the program as it was built, can use it.
bool supports(InstructionSet set) noexcept;

/// The widest one that is supported.
InstructionSet best_instruction_set() noexcept;

}  // namespace perrin::trainer
