#include "trainer/interchange/exported_weights.hpp"

#include <ATen/ATen.h>

#include <stdexcept>

#include "data/data_error.hpp"

namespace perrin::trainer {
namespace {

bool is_finite(const at::Tensor& tensor) { return tensor.isfinite().all().item<bool>(); }

}  // namespace

std::map<std::string, at::Tensor> exported_weights(const std::filesystem::path& path,
                                                   const std::vector<ParameterSpec>& parameters,
                                                   const std::map<std::string, at::Tensor>& weights,
                                                   at::ScalarType type) {
  std::map<std::string, at::Tensor> exported;
  for (const ParameterSpec& parameter : parameters) {
    const auto found = weights.find(parameter.name);
    if (found == weights.end() || found->second.sizes() != at::IntArrayRef(parameter.shape)) {
      throw std::invalid_argument("exported_weights: the weights lack '" + parameter.name + "' in shape " +
                                  c10::str(at::IntArrayRef(parameter.shape)));
    }
    if (!is_finite(found->second)) {
      throw data::DataError(path, "is not written, since parameter '" + parameter.name +
                                      "' holds values that are not finite; export an earlier checkpoint");
    }
    const at::Tensor converted = found->second.detach().to(type);
    if (!is_finite(converted)) {
      throw data::DataError(path, "is not written, since parameter '" + parameter.name +
                                      "' holds values above 65504, the largest of fp16; export bf16 or fp32");
    }
    exported.emplace(parameter.name, converted);
  }
  if (weights.size() != exported.size()) {
    throw std::invalid_argument("exported_weights: " + std::to_string(weights.size()) + " tensors were given for the " +
                                std::to_string(exported.size()) + " parameters of the network");
  }
  return exported;
}

}  // namespace perrin::trainer
