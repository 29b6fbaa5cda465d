#include "trainer/interchange/imported_weights.hpp"

#include <ATen/ATen.h>

#include "data/data_error.hpp"

namespace perrin::trainer {

std::map<std::string, at::Tensor> imported_weights(const std::filesystem::path& file,
                                                   const std::vector<ParameterSpec>& parameters,
                                                   std::map<std::string, at::Tensor> tensors) {
  std::map<std::string, at::Tensor> weights;
  for (const ParameterSpec& parameter : parameters) {
    const auto refuse = [&](const std::string& reason) {
      throw data::DataError(file, "tensor '" + parameter.name + "' " + reason + "; the file is of another model");
    };
    auto found = tensors.extract(parameter.name);
    if (!found) refuse("is missing, which the configuration asks for");
    const at::Tensor& tensor = found.mapped();
    if (tensor.sizes() != at::IntArrayRef(parameter.shape))
      refuse("has shape " + c10::str(tensor.sizes()) + ", and the configuration makes it " +
             c10::str(at::IntArrayRef(parameter.shape)));
    if (!tensor.is_floating_point()) refuse(std::string("is of type ") + c10::toString(tensor.scalar_type()));
    at::Tensor weight = tensor.to(at::kFloat);
    if (!weight.isfinite().all().item<bool>()) refuse("holds values that are not finite");
    weights.emplace(parameter.name, std::move(weight));
  }
  if (!tensors.empty())
    throw data::DataError(file,
                          "holds tensor '" + tensors.begin()->first + "'" +
                              (tensors.size() > 1 ? " and " + std::to_string(tensors.size() - 1) + " others" : "") +
                              ", which a network of this configuration does not have");
  return weights;
}

}  // namespace perrin::trainer
