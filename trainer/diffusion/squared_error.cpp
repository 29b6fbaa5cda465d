#include "trainer/diffusion/squared_error.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "trainer/kernels/squared_error.hpp"

namespace perrin::trainer {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool kernel_takes(const at::Tensor& F, const at::Tensor& target) {
  const auto both_are = [&](at::MemoryFormat order) { return F.is_contiguous(order) && target.is_contiguous(order); };
  return F.is_cpu() && (F.scalar_type() == at::kFloat || F.scalar_type() == at::kBFloat16) && target.is_cpu() &&
         target.scalar_type() == at::kFloat && F.sizes() == target.sizes() && F.numel() > 0 &&
         (both_are(at::MemoryFormat::ChannelsLast) || both_are(at::MemoryFormat::Contiguous));
}

std::int64_t elements_of_image(const at::Tensor& F) { return F.numel() / F.size(0); }

/// Calls work(first element of F's image, of target's, image) on LibTorch's threads.
template <typename Work>
void for_images(const at::Tensor& F, const at::Tensor& target, const Work& work) {
  const std::int64_t elements = elements_of_image(F);
  const float* targets = target.const_data_ptr<float>();
  const auto with_type = [&]<typename T>(const T* outputs) {
    at::parallel_for(0, F.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n) work(outputs + n * elements, targets + n * elements, n);
    });
  };
  if (F.scalar_type() == at::kFloat)
    with_type(F.const_data_ptr<float>());
  else
    with_type(static_cast<const BFloat16*>(F.const_data_ptr()));
}

/// The kernel as an operator.
struct MeanSquaredError : torch::autograd::Function<MeanSquaredError> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& F, const at::Tensor& target) {
    const at::Tensor errors = at::empty({F.size(0)}, target.options());
    float* error = errors.mutable_data_ptr<float>();
    const std::int64_t elements = elements_of_image(F);
    for_images(F, target, [&](const auto* outputs, const float* targets, std::int64_t n) {
      error[n] = static_cast<float>(squared_error(outputs, targets, elements) / static_cast<double>(elements));
    });
    context->save_for_backward({F, target});
    return errors;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &F = saved[0], &target = saved[1];
    const std::int64_t elements = elements_of_image(F);
    const at::Tensor scales = (gradients[0] * (2.0 / static_cast<double>(elements))).contiguous();
    const float* scale = scales.const_data_ptr<float>();
    const at::Tensor dF = at::empty_like(F);
    for_images(F, target, [&]<typename T>(const T* outputs, const float* targets, std::int64_t n) {
      squared_error_gradient(outputs, targets, elements, scale[n],
                             static_cast<T*>(dF.mutable_data_ptr()) + n * elements);
    });
    return {dF, at::Tensor()};
  }
};

}  // namespace

at::Tensor mean_squared_error(const at::Tensor& F, const at::Tensor& target) {
  if (kernel_takes(F, target)) return MeanSquaredError::apply(F, target);
  return at::mse_loss(F.to(target.scalar_type()), target, at::Reduction::None).mean({1, 2, 3});
}

}  // namespace perrin::trainer
