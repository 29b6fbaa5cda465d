#include "launch/commands/step_limits.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <limits>

namespace perrin::launch {
namespace {

/// The shortest of some calls, since what else the machine does only makes them longer.
double shortest_seconds(const std::function<void()>& call) {
  constexpr int kWarmUps = 1, kCalls = 5;
  double shortest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kWarmUps + kCalls; ++i) {
    const auto begun = std::chrono::steady_clock::now();
    call();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    if (i >= kWarmUps) shortest = std::min(shortest, seconds);
  }
  return shortest;
}

double seconds_of(const ConvolutionCall& call, at::MemoryFormat format) {
  const at::TensorOptions type = at::dtype(call.type);
  const std::int64_t out_channels = call.weight[call.transposed ? 1 : 0];
  const at::Tensor input = at::randn(call.input, type).contiguous(format),
                   weight = at::randn(call.weight, type).contiguous(format), bias = at::randn({out_channels}, type);
  const std::array<std::int64_t, 2> dilation = {1, 1}, output_padding = {0, 0};
  at::Tensor output;
  const double forward = shortest_seconds([&] {
    output =
        at::convolution(input, weight, bias, call.stride, call.padding, dilation, call.transposed, output_padding, 1);
  });
  const at::Tensor gradient = at::randn_like(output);
  const double backward = shortest_seconds([&] {
    at::convolution_backward(gradient, input, weight, at::IntArrayRef(out_channels), call.stride, call.padding,
                             dilation, call.transposed, output_padding, 1, {call.input_gradient, true, true});
  });
  return forward + backward;
}

}  // namespace

double isolated_convolution_seconds(const std::map<ConvolutionCall, std::int64_t>& calls) {
  double seconds = 0;
  for (const auto& [call, times] : calls)
    seconds += static_cast<double>(times) * std::min(seconds_of(call, at::MemoryFormat::Contiguous),
                                                     seconds_of(call, at::MemoryFormat::ChannelsLast));
  return seconds;
}

double matrix_flops_per_second(at::ScalarType type) {
  constexpr std::int64_t kSize = 1024;
  const at::Tensor a = at::randn({kSize, kSize}, type), b = at::randn({kSize, kSize}, type);
  return 2.0 * kSize * kSize * kSize / shortest_seconds([&] { at::mm(a, b); });
}

}  // namespace perrin::launch
