#include "trainer/kernels/optimizer_pass.hpp"

#include "trainer/kernels/with_lanes.hpp"

namespace perrin::trainer {
namespace optimizer_pass_code {

// Each is compiled in the file of its instruction set.
template <typename Lanes>
void sums_of_squares(const float* values, std::int64_t block, std::int64_t blocks, double* sums);
template <typename Lanes>
void adam_update(const AdamArrays& arrays, const AdamScalars& scalars, std::int64_t begin, std::int64_t count);

}  // namespace optimizer_pass_code

void sums_of_squares(const float* values, std::int64_t block, std::int64_t blocks, double* sums, InstructionSet set) {
  with_lanes(set, [&]<typename Lanes>() { optimizer_pass_code::sums_of_squares<Lanes>(values, block, blocks, sums); });
}

void adam_update(const AdamArrays& arrays, const AdamScalars& scalars, std::int64_t begin, std::int64_t count,
                 InstructionSet set) {
  with_lanes(set, [&]<typename Lanes>() { optimizer_pass_code::adam_update<Lanes>(arrays, scalars, begin, count); });
}

}  // namespace perrin::trainer
