#pragma once

// For loops that the compiler vectorises: one body, compiled for each instruction set and chosen when the program
// starts. Functions that such a body calls must be inlined into it, or they are those of the oldest processor.
#if defined(__x86_64__)
#define PERRIN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PERRIN_CLONES
#endif
#define PERRIN_INLINE __attribute__((always_inline)) inline
