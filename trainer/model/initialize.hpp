#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/model/parameter_spec.hpp"

namespace perrin::trainer {

/// Fills a parameter with its initial values: a function of (seed, name, logical element), so that neither the order of
/// parameters, nor their place in memory, nor a rank changes them.
/// @param logical_view  tensor of spec.shape, any strides, floating type and device
/// @throws std::invalid_argument when the shapes differ
void initialize(const ParameterSpec& spec, at::Tensor logical_view, std::uint64_t seed);

}  // namespace perrin::trainer
