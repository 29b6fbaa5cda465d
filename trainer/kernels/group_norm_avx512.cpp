#include "trainer/kernels/group_norm_code.hpp"
#include "trainer/kernels/lanes_avx512.hpp"

namespace perrin::trainer::group_norm_code {

template void forward<Avx512Lanes, float>(const GroupNormShape&, const GroupNormParameters&,
                                          const GroupNormForward<float>&, const GroupNormRange&);
template void forward<Avx512Lanes, BFloat16>(const GroupNormShape&, const GroupNormParameters&,
                                             const GroupNormForward<BFloat16>&, const GroupNormRange&);
template void backward<Avx512Lanes, float>(const GroupNormShape&, const GroupNormParameters&,
                                           const GroupNormBackward<float>&, const GroupNormRange&);
template void backward<Avx512Lanes, BFloat16>(const GroupNormShape&, const GroupNormParameters&,
                                              const GroupNormBackward<BFloat16>&, const GroupNormRange&);

}  // namespace perrin::trainer::group_norm_code
