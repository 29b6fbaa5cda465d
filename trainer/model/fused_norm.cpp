#include "trainer/model/fused_norm.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "trainer/kernels/dropout_mask.hpp"
#include "trainer/random/keyed_noise.hpp"
#include "trainer/telemetry/operator_scope.hpp"

namespace perrin::trainer {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using MaybeTensor = std::optional<at::Tensor>;  // apply() takes no undefined tensors, but absent ones

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

bool kernel_takes(const at::Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) &&
         x.is_contiguous(kChannelsLast);
}

/// A small tensor as the kernel reads it; undefined stays so.
at::Tensor as_floats(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.to(at::kFloat).contiguous() : tensor;
}

const float* floats(const at::Tensor& tensor) { return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr; }

template <typename T>
const T* elements(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const T*>(tensor.const_data_ptr()) : nullptr;
}

template <typename T>
T* mutable_elements(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

GroupNormShape shape_of(const at::Tensor& x, const at::Tensor& skip, std::int64_t groups) {
  return {.pixels = x.size(2) * x.size(3),
          .channels = x.size(1) + (skip.defined() ? skip.size(1) : 0),
          .groups = groups,
          .first_channels = x.size(1)};
}

/// Calls work(range) on LibTorch's threads, each with scratch memory of its own.
template <typename Work>
void for_ranges(std::int64_t samples, const GroupNormShape& shape, const Work& work) {
  at::parallel_for(0, samples, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto scratch = std::make_unique_for_overwrite<float[]>(group_norm_scratch(shape));
    work(GroupNormRange{begin, end, scratch.get()});
  });
}

/// Calls work(T{}) with the kernel's element type of x.
template <typename Work>
void with_element_type(const at::Tensor& x, const Work& work) {
  if (x.scalar_type() == at::kFloat)
    work(float{});
  else
    work(BFloat16{});
}

/// Bits of all samples, as int16.
at::Tensor dropout_masks(const KeyedDropout& dropout, const GroupNormShape& shape) {
  const auto samples = static_cast<std::int64_t>(dropout.positions.size());
  const auto size = static_cast<std::int64_t>(dropout_mask_size(shape.pixels, shape.channels));
  at::Tensor masks = at::empty({samples, size}, at::kShort);
  auto* bits = static_cast<std::uint16_t*>(masks.mutable_data_ptr());
  at::parallel_for(0, samples, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto scratch = std::make_unique_for_overwrite<std::uint32_t[]>(dropout_mask_scratch(shape.pixels));
    for (std::int64_t n = begin; n < end; ++n)
      fill_dropout_mask(dropout.stream, dropout.positions[static_cast<std::size_t>(n)], dropout.keep, shape.pixels,
                        shape.channels, bits + n * size, scratch.get());
  });
  return masks;
}

/// What forward and backward hand to the kernel.
struct Inputs {
  at::Tensor x, skip, gamma, beta, add, scale, shift, kept;

  GroupNormParameters parameters(double keep, Activation activation) const {
    return {.gamma = floats(gamma),
            .beta = floats(beta),
            .add = floats(add),
            .scale = floats(scale),
            .shift = floats(shift),
            .kept = elements<std::uint16_t>(kept),
            .keep_factor = static_cast<float>(1.0 / keep),
            .activation = activation};
  }
};

/// The gradient in the type of the parameter that it belongs to; undefined where there is no parameter.
at::Tensor gradient_for(const at::Tensor& parameter, const at::Tensor& gradient) {
  return parameter.defined() ? gradient.to(parameter.scalar_type()) : at::Tensor();
}

/// The kernel as an operator. Outputs: y, and where `gives_inputs` x and skip.
class FusedNormNode : public torch::autograd::Function<FusedNormNode> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const MaybeTensor& maybe_skip,
                               const at::Tensor& weight, const at::Tensor& bias, const MaybeTensor&, const MaybeTensor&,
                               const MaybeTensor&, const FusedNorm& norm, bool gives_inputs) {
    const at::Tensor skip = maybe_skip.value_or(at::Tensor());
    const at::Tensor &add = norm.add, &scale = norm.scale, &shift = norm.shift;
    const GroupNormShape shape = shape_of(x, skip, norm.groups);
    const std::int64_t samples = x.size(0);
    const Inputs in{x,
                    skip,
                    as_floats(weight),
                    as_floats(bias),
                    as_floats(add),
                    as_floats(scale),
                    as_floats(shift),
                    norm.dropout ? dropout_masks(*norm.dropout, shape) : at::Tensor()};
    const double keep = norm.dropout ? norm.dropout->keep : 1.0;
    const GroupNormParameters parameters = in.parameters(keep, norm.activation);
    const at::Tensor y = at::empty({samples, shape.channels, x.size(2), x.size(3)}, x.options(), kChannelsLast);
    const at::Tensor mean = at::empty({samples, shape.groups}, at::kFloat), rstd = at::empty_like(mean);
    with_element_type(x, [&]<typename T>(T) {
      const GroupNormForward<T> tensors{.x = {elements<T>(x), elements<T>(skip)},
                                        .y = mutable_elements<T>(y),
                                        .mean = mean.mutable_data_ptr<float>(),
                                        .rstd = rstd.mutable_data_ptr<float>(),
                                        .eps = static_cast<float>(norm.eps)};
      for_ranges(samples, shape,
                 [&](const GroupNormRange& range) { group_norm_forward(shape, parameters, tensors, range); });
    });
    context->save_for_backward({x, skip, weight, bias, add, scale, shift, in.kept, mean, rstd});
    context->saved_data["groups"] = norm.groups;
    context->saved_data["keep"] = keep;
    context->saved_data["silu"] = norm.activation == Activation::silu;
    context->set_materialize_grads(false);
    if (!gives_inputs) return {y};
    return skip.defined() ? variable_list{y, x, skip} : variable_list{y, x};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &skip = saved[1], &weight = saved[2], &bias = saved[3], &add = saved[4],
                     &scale = saved[5], &shift = saved[6], &mean = saved[8], &rstd = saved[9];
    const Inputs in{
        x, skip, as_floats(weight), as_floats(bias), as_floats(add), as_floats(scale), as_floats(shift), saved[7]};
    const GroupNormShape shape = shape_of(x, skip, context->saved_data["groups"].toInt());
    const Activation activation = context->saved_data["silu"].toBool() ? Activation::silu : Activation::none;
    const GroupNormParameters parameters = in.parameters(context->saved_data["keep"].toDouble(), activation);
    const std::int64_t samples = x.size(0);

    const auto as_activation = [&](const at::Tensor& gradient) {
      return gradient.to(x.options()).contiguous(kChannelsLast);
    };
    const at::Tensor dy =
        gradients[0].defined()
            ? as_activation(gradients[0])
            : at::zeros({samples, shape.channels, x.size(2), x.size(3)}, x.options()).contiguous(kChannelsLast);
    const auto other_gradient = [&](std::size_t i) {
      return i < gradients.size() && gradients[i].defined() ? as_activation(gradients[i]) : at::Tensor();
    };
    const at::Tensor x_residual = other_gradient(1), skip_residual = other_gradient(2);
    const at::Tensor dx = at::empty_like(x), dskip = skip.defined() ? at::empty_like(skip) : at::Tensor();
    const at::Tensor du_sum = at::empty({samples, shape.channels}, at::kFloat), du_x_sum = at::empty_like(du_sum);
    const at::Tensor dadd = add.defined() ? at::empty_like(du_sum) : at::Tensor();
    with_element_type(x, [&]<typename T>(T) {
      const GroupNormBackward<T> tensors{.dy = elements<T>(dy),
                                         .x = {elements<T>(x), elements<T>(skip)},
                                         .mean = floats(mean),
                                         .rstd = floats(rstd),
                                         .residual = {elements<T>(x_residual), elements<T>(skip_residual)},
                                         .dx = {mutable_elements<T>(dx), mutable_elements<T>(dskip)},
                                         .du_sum = du_sum.mutable_data_ptr<float>(),
                                         .du_x_sum = du_x_sum.mutable_data_ptr<float>(),
                                         .dadd = mutable_elements<float>(dadd)};
      for_ranges(samples, shape,
                 [&](const GroupNormRange& range) { group_norm_backward(shape, parameters, tensors, range); });
    });

    const at::Tensor dgamma = at::empty({shape.channels}, at::kFloat), dbeta = at::empty_like(dgamma);
    const at::Tensor dscale = scale.defined() ? at::empty_like(du_sum) : at::Tensor();
    group_norm_parameter_gradients(parameters, samples, shape.channels, floats(du_sum), floats(du_x_sum),
                                   {.dgamma = dgamma.mutable_data_ptr<float>(),
                                    .dbeta = dbeta.mutable_data_ptr<float>(),
                                    .dscale = mutable_elements<float>(dscale)});
    return {dx,
            dskip,
            gradient_for(weight, dgamma),
            gradient_for(bias, dbeta),
            gradient_for(add, dadd),
            gradient_for(scale, dscale),
            gradient_for(shift, du_sum),
            at::Tensor(),
            at::Tensor()};
  }
};

/// The same by LibTorch's operators.
at::Tensor by_operators(const at::Tensor& x, const at::Tensor& skip, const FusedNorm& norm) {
  const auto over_pixels = [&](const at::Tensor& t) { return t.to(x.scalar_type()).unsqueeze(-1).unsqueeze(-1); };
  at::Tensor y = skip.defined() ? at::cat({x, skip}, 1) : x;
  if (norm.add.defined()) y = y + over_pixels(norm.add);
  y = at::group_norm(y, norm.groups, norm.weight.to(x.scalar_type()), norm.bias.to(x.scalar_type()), norm.eps);
  if (norm.scale.defined()) y = at::addcmul(over_pixels(norm.shift), y, over_pixels(norm.scale) + 1);
  if (norm.activation == Activation::silu) y = at::silu(y);
  if (norm.dropout) {
    const at::Tensor factors =
        keyed_dropout(norm.dropout->stream, norm.dropout->positions, y.sizes().slice(1), norm.dropout->keep);
    y = y * factors.to(y.options(), /*non_blocking=*/false, /*copy=*/false, y.suggest_memory_format());
  }
  return y;
}

void check(const at::Tensor& x, const at::Tensor& skip, const FusedNorm& norm) {
  const auto refuse = [](const char* what) { throw std::invalid_argument(std::string("fused_norm: ") + what); };
  if (x.dim() != 4) refuse("x is not [N, C, H, W]");
  if (skip.defined() && (skip.dim() != 4 || skip.size(0) != x.size(0) || skip.sizes().slice(2) != x.sizes().slice(2) ||
                         skip.scalar_type() != x.scalar_type()))
    refuse("skip and x differ in more than their channels");
  const std::int64_t samples = x.size(0), channels = x.size(1) + (skip.defined() ? skip.size(1) : 0);
  if (norm.groups < 1 || channels % norm.groups != 0) refuse("the channels do not make whole groups");
  for (const at::Tensor* t : {&norm.weight, &norm.bias})
    if (!t->defined() || t->numel() != channels) refuse("weight or bias is not [C]");
  for (const at::Tensor* t : {&norm.add, &norm.scale, &norm.shift})
    if (t->defined() && t->sizes() != at::IntArrayRef({samples, channels})) refuse("add, scale or shift is not [N, C]");
  if (norm.scale.defined() != norm.shift.defined()) refuse("scale and shift come together");
  if (norm.dropout && (!(norm.dropout->keep > 0 && norm.dropout->keep <= 1) ||
                       std::cmp_not_equal(norm.dropout->positions.size(), samples)))
    refuse("dropout needs a position for each sample and keep in (0, 1]");
}

variable_list run(const at::Tensor& x, const at::Tensor& skip, const FusedNorm& norm, bool gives_inputs) {
  check(x, skip, norm);
  if (!kernel_takes(x) || (skip.defined() && !kernel_takes(skip))) {
    const at::Tensor y = by_operators(x, skip, norm);
    return gives_inputs ? variable_list{y, x, skip} : variable_list{y};
  }
  // No network drops out after a join, for which the mask has no layout.
  if (skip.defined() && norm.dropout) return run(at::cat({x, skip}, 1), {}, norm, false);
  const auto maybe = [](const at::Tensor& t) { return t.defined() ? MaybeTensor(t) : std::nullopt; };
  const OperatorScope scope(kNormScope, {x, skip});
  return FusedNormNode::apply(x, maybe(skip), norm.weight, norm.bias, maybe(norm.add), maybe(norm.scale),
                              maybe(norm.shift), norm, gives_inputs);
}

}  // namespace

at::Tensor fused_norm(const at::Tensor& x, const at::Tensor& skip, const FusedNorm& norm) {
  return run(x, skip, norm, /*gives_inputs=*/false)[0];
}

FusedNormOutputs fused_norm_and_inputs(const at::Tensor& x, const at::Tensor& skip, const FusedNorm& norm) {
  if (skip.defined() && norm.dropout) return {fused_norm(x, skip, norm), x, skip};
  const variable_list outputs = run(x, skip, norm, /*gives_inputs=*/true);
  return {outputs[0], outputs[1], skip.defined() ? outputs[2] : at::Tensor()};
}

}  // namespace perrin::trainer
