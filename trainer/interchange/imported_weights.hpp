#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "trainer/model/parameter_spec.hpp"

namespace perrin::trainer {

/// Tensors of a file as the parameters of a network: exactly those, in fp32, finite.
/// @param file  they are from, for the messages
/// @throws data::DataError naming the tensor that is missing, foreign, of another shape, no floating type, or not
/// finite
std::map<std::string, at::Tensor> imported_weights(const std::filesystem::path& file,
                                                   const std::vector<ParameterSpec>& parameters,
                                                   std::map<std::string, at::Tensor> tensors);

}  // namespace perrin::trainer
