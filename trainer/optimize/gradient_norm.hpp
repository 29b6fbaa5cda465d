#pragma once

#include <ATen/core/Tensor.h>

namespace perrin::trainer {

/// L2 norm of a flat fp32 buffer in fp64. The sum runs over fixed blocks and adds them in a fixed order, so that the
/// number of threads does not show in its bits. A non-finite entry makes it non-finite.
/// @param flat [n], float32, contiguous
double gradient_norm(const at::Tensor& flat);

}  // namespace perrin::trainer
