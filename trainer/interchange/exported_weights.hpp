#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "trainer/model/parameter_spec.hpp"

namespace perrin::trainer {

/// The parameters of a network as a file of the given type holds them: exactly those, finite.
/// @param path     that is to be written, for the messages
/// @param weights  by name, any floating type
/// @param type     kFloat, kHalf or kBFloat16
/// @throws std::invalid_argument when parameters are missing, foreign or of another shape; data::DataError when a value
/// is not finite, or not in the range of the type
std::map<std::string, at::Tensor> exported_weights(const std::filesystem::path& path,
                                                   const std::vector<ParameterSpec>& parameters,
                                                   const std::map<std::string, at::Tensor>& weights,
                                                   at::ScalarType type);

}  // namespace perrin::trainer
