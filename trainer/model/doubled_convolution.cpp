#include "trainer/model/doubled_convolution.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

namespace perrin::trainer {
namespace {

constexpr std::array<std::int64_t, 2> kStride = {2, 2}, kPadding = {1, 1}, kDilation = {1, 1}, kOutputPadding = {0, 0};

/// [16, 9]: which taps of a 3x3 convolution meet in each tap of the 4x4 transposed one. Along one axis, place o of the
/// result reads place u = o + a - 1 of the doubled image through tap a, which is pixel i with u = 2 i + p, p = 0 or 1;
/// so pixel i reaches o through tap k = o + 1 - 2 i = 2 + p - a.
at::Tensor fold_matrix(const at::TensorOptions& options) {
  const at::Tensor axis = at::tensor({0., 0., 1., 0., 1., 1., 1., 1., 0., 1., 0., 0.}, at::kDouble).view({4, 3});
  return at::kron(axis, axis).to(options);
}

/// autograd's own gradient of the bias of a transposed convolution is a slow loop of oneDNN's (3.10).
struct DoubledConvolution : torch::autograd::Function<DoubledConvolution> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias) {
    const std::int64_t out = weight.size(0), in = weight.size(1);
    const at::Tensor taps = fold_matrix(weight.options());
    const at::Tensor folded =
        at::matmul(weight.permute({1, 0, 2, 3}).reshape({in * out, 9}), taps.t()).view({in, out, 4, 4});
    context->save_for_backward({x, folded, taps});
    return at::convolution(x, folded, bias, kStride, kPadding, kDilation, /*transposed=*/true, kOutputPadding, 1);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &folded = saved[1], &taps = saved[2], &gradient = gradients[0];
    const std::int64_t in = folded.size(0), out = folded.size(1);
    auto [dx, dfolded, unused] =
        at::convolution_backward(gradient, x, folded, at::OptionalIntArrayRef(), kStride, kPadding, kDilation,
                                 /*transposed=*/true, kOutputPadding, 1, {true, true, false});
    const at::Tensor dweight = at::matmul(dfolded.reshape({in * out, 16}), taps).view({in, out, 3, 3});
    return {dx, dweight.permute({1, 0, 2, 3}), gradient.sum({0, 2, 3})};
  }
};

}  // namespace

at::Tensor convolution_of_doubled(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return DoubledConvolution::apply(x, weight, bias);
}

}  // namespace perrin::trainer
