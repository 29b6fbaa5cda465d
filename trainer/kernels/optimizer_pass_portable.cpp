#include "trainer/kernels/lanes_portable.hpp"
#include "trainer/kernels/optimizer_pass_code.hpp"

namespace perrin::trainer::optimizer_pass_code {

template void sums_of_squares<PortableLanes>(const float*, std::int64_t, std::int64_t, double*);
template void adam_update<PortableLanes>(const AdamArrays&, const AdamScalars&, std::int64_t, std::int64_t);

}  // namespace perrin::trainer::optimizer_pass_code
