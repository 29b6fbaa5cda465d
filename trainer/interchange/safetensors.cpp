#include "trainer/interchange/safetensors.hpp"

#include <ATen/ATen.h>

#include <cstring>
#include <stdexcept>
#include <vector>

#include "trainer/interchange/safetensors_format.hpp"

namespace perrin::trainer {
namespace {

struct TypePair {
  ElementType stored;
  at::ScalarType tensor;
};
constexpr TypePair kPairs[] = {{ElementType::F64, at::kDouble}, {ElementType::F32, at::kFloat},
                               {ElementType::F16, at::kHalf},   {ElementType::BF16, at::kBFloat16},
                               {ElementType::I64, at::kLong},   {ElementType::I32, at::kInt},
                               {ElementType::U8, at::kByte},    {ElementType::BOOL, at::kBool}};

ElementType stored_type(const std::string& name, at::ScalarType type) {
  for (const TypePair& pair : kPairs) {
    if (pair.tensor == type) {
      return pair.stored;
    }
  }
  throw std::invalid_argument("write_safetensors: '" + name + "' has type " + c10::toString(type) +
                              ", which has no safetensors name here");
}

at::ScalarType tensor_type(ElementType type) {
  for (const TypePair& pair : kPairs) {
    if (pair.stored == type) {
      return pair.tensor;
    }
  }
  throw std::logic_error("an element type of the safetensors reader has no tensor type");
}

}  // namespace

WrittenFile write_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> contiguous;  // keeps the bytes of the views alive
  std::vector<NamedTensorView> views;
  for (const auto& [name, tensor] : tensors) {
    contiguous.push_back(tensor.detach().cpu().contiguous());
    const at::Tensor& bytes = contiguous.back();
    views.push_back({name,
                     {stored_type(name, bytes.scalar_type()),
                      bytes.sizes().vec(),
                      {static_cast<const std::byte*>(bytes.const_data_ptr()), bytes.nbytes()}}});
  }
  return write_safetensors(path, views, metadata);
}

std::map<std::string, at::Tensor> read_safetensors(const std::filesystem::path& path) {
  return tensors_of(SafetensorsFile::read(path));
}

std::map<std::string, at::Tensor> tensors_of(const SafetensorsFile& file) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, view] : file.tensors()) {
    at::Tensor tensor = at::empty(view.shape, tensor_type(view.type));
    if (!view.bytes.empty()) {
      std::memcpy(tensor.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
    }
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

}  // namespace perrin::trainer
