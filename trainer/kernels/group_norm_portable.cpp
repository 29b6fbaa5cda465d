#include "trainer/kernels/group_norm_code.hpp"
#include "trainer/kernels/lanes_portable.hpp"

namespace perrin::trainer::group_norm_code {

template void forward<PortableLanes, float>(const GroupNormShape&, const GroupNormParameters&,
                                            const GroupNormForward<float>&, const GroupNormRange&);
template void forward<PortableLanes, BFloat16>(const GroupNormShape&, const GroupNormParameters&,
                                               const GroupNormForward<BFloat16>&, const GroupNormRange&);
template void backward<PortableLanes, float>(const GroupNormShape&, const GroupNormParameters&,
                                             const GroupNormBackward<float>&, const GroupNormRange&);
template void backward<PortableLanes, BFloat16>(const GroupNormShape&, const GroupNormParameters&,
                                                const GroupNormBackward<BFloat16>&, const GroupNormRange&);

}  // namespace perrin::trainer::group_norm_code
