#include "trainer/kernels/group_norm.hpp"

#include "trainer/kernels/group_norm_plan.hpp"
#include "trainer/kernels/with_lanes.hpp"

namespace perrin::trainer {
namespace group_norm_code {

// Each is compiled in the file of its instruction set.
template <typename Lanes, typename T>
void forward(const GroupNormShape& shape, const GroupNormParameters& parameters, const GroupNormForward<T>& tensors,
             const GroupNormRange& range);
template <typename Lanes, typename T>
void backward(const GroupNormShape& shape, const GroupNormParameters& parameters, const GroupNormBackward<T>& tensors,
              const GroupNormRange& range);

}  // namespace group_norm_code

namespace {

template <typename T>
void forward(const GroupNormShape& shape, const GroupNormParameters& parameters, const GroupNormForward<T>& tensors,
             const GroupNormRange& range, InstructionSet set) {
  with_lanes(set, [&]<typename Lanes>() { group_norm_code::forward<Lanes>(shape, parameters, tensors, range); });
}

template <typename T>
void backward(const GroupNormShape& shape, const GroupNormParameters& parameters, const GroupNormBackward<T>& tensors,
              const GroupNormRange& range, InstructionSet set) {
  with_lanes(set, [&]<typename Lanes>() { group_norm_code::backward<Lanes>(shape, parameters, tensors, range); });
}

}  // namespace

std::size_t group_norm_scratch(const GroupNormShape& shape) {
  // A line in front, the numbers of the channels, then du and x of a slice.
  return static_cast<std::size_t>(kScratchLine + kChannelArrays * padded_channels(shape) +
                                  2 * shape.pixels * slice_channels(shape));
}

void group_norm_forward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                        const GroupNormForward<float>& tensors, const GroupNormRange& range, InstructionSet set) {
  forward(shape, parameters, tensors, range, set);
}

void group_norm_forward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                        const GroupNormForward<BFloat16>& tensors, const GroupNormRange& range, InstructionSet set) {
  forward(shape, parameters, tensors, range, set);
}

void group_norm_backward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                         const GroupNormBackward<float>& tensors, const GroupNormRange& range, InstructionSet set) {
  backward(shape, parameters, tensors, range, set);
}

void group_norm_backward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                         const GroupNormBackward<BFloat16>& tensors, const GroupNormRange& range, InstructionSet set) {
  backward(shape, parameters, tensors, range, set);
}

void group_norm_parameter_gradients(const GroupNormParameters& parameters, std::int64_t samples, std::int64_t channels,
                                    const float* du_sum, const float* du_x_sum, const GroupNormParameterGradients& to) {
  for (std::int64_t c = 0; c < channels; ++c) to.dgamma[c] = to.dbeta[c] = 0;
  for (std::int64_t n = 0; n < samples; ++n) {
    const float* sum = du_sum + n * channels;
    const float* x_sum = du_x_sum + n * channels;
    const float* scale = parameters.scale != nullptr ? parameters.scale + n * channels : nullptr;
    for (std::int64_t c = 0; c < channels; ++c) {
      const float factor = scale != nullptr ? 1.0F + scale[c] : 1.0F;
      to.dgamma[c] += factor * x_sum[c];
      to.dbeta[c] += factor * sum[c];
    }
    if (to.dscale != nullptr) {
      float* dscale = to.dscale + n * channels;
      for (std::int64_t c = 0; c < channels; ++c)
        dscale[c] = parameters.gamma[c] * x_sum[c] + parameters.beta[c] * sum[c];
    }
  }
}

}  // namespace perrin::trainer
