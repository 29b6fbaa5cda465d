#pragma once

#include <ATen/core/Tensor.h>

#include "launch/commands/operator_times.hpp"
#include "trainer/thread_team.hpp"

namespace perrin::launch {

/// Seconds of forward and backward of these convolutions, as many equal ones at a time as the team has members, in the
/// faster of the memory formats: what the vendor's library gives on this machine.
double isolated_convolution_seconds(const std::map<ConvolutionCall, std::int64_t>& calls, trainer::ThreadTeam& team);

/// Floating-point operations a second of a large matrix product.
double matrix_flops_per_second(at::ScalarType type);

}  // namespace perrin::launch
