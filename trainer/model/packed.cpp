#include "trainer/model/packed.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace perrin::trainer {
namespace {

bool follow_each_other(const at::Tensor& a, const at::Tensor& b) {
  return a.is_contiguous() && b.is_contiguous() && a.storage().is_alias_of(b.storage()) &&
         b.storage_offset() == a.storage_offset() + a.numel();
}

/// LibTorch knows no view over several tensors; this is one, and its gradient falls into their three.
struct Packed : torch::autograd::Function<Packed> {
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& a, const at::Tensor& b,
                            const at::Tensor& c) {
    if (!follow_each_other(a, b) || !follow_each_other(b, c)) return at::cat({a, b, c});
    auto sizes = a.sizes().vec();
    sizes[0] *= 3;
    return at::empty({0}, a.options()).set_(a.storage(), a.storage_offset(), sizes, a.strides());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list& gradients) {
    return gradients[0].chunk(3);
  }
};

}  // namespace

at::Tensor packed(const std::array<at::Tensor, 3>& parts) { return Packed::apply(parts[0], parts[1], parts[2]); }

}  // namespace perrin::trainer
