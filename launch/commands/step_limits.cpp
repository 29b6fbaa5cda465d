#include "launch/commands/step_limits.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <limits>
#include <vector>

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

/// A convolution of the network's, by itself.
class Convolution {
 public:
  Convolution(const ConvolutionCall& call, at::MemoryFormat format)
      : call_(&call),
        out_channels_(call.weight[call.transposed ? 1 : 0]),
        input_(at::randn(call.input, call.type).contiguous(format)),
        weight_(at::randn(call.weight, call.type).contiguous(format)),
        bias_(at::randn({out_channels_}, call.type)) {}

  void forward() {
    output_ = at::convolution(input_, weight_, bias_, call_->stride, call_->padding, kDilation, call_->transposed,
                              kOutputPadding, 1);
    if (!gradient_.defined()) gradient_ = at::randn_like(output_);
  }
  void backward() {
    // oneDNN's gradient of the bias of a transposed convolution is a slow loop, which the network does without.
    const bool with_bias = !call_->transposed;
    at::convolution_backward(gradient_, input_, weight_, at::IntArrayRef(out_channels_), call_->stride, call_->padding,
                             kDilation, call_->transposed, kOutputPadding, 1,
                             {call_->input_gradient, true, with_bias});
    if (!with_bias) gradient_.sum({0, 2, 3});
  }

 private:
  static constexpr std::array<std::int64_t, 2> kDilation = {1, 1}, kOutputPadding = {0, 0};

  const ConvolutionCall* call_;
  std::int64_t out_channels_;
  at::Tensor input_, weight_, bias_, output_, gradient_;
};

/// Of one call among as many at the same time as the team has members.
double seconds_of(const ConvolutionCall& call, at::MemoryFormat format, trainer::ThreadTeam& team) {
  std::vector<Convolution> of_members;
  for (std::size_t m = 0; m < team.size(); ++m) of_members.emplace_back(call, format);
  const auto seconds = [&](void (Convolution::*pass)()) {
    return shortest_seconds([&] { team.run(team.size(), [&](std::size_t m) { (of_members[m].*pass)(); }); });
  };
  const double forward = seconds(&Convolution::forward);  // first: backward needs its gradient
  return (forward + seconds(&Convolution::backward)) / static_cast<double>(team.size());
}

}  // namespace

double isolated_convolution_seconds(const std::map<ConvolutionCall, std::int64_t>& calls, trainer::ThreadTeam& team) {
  double seconds = 0;
  for (const auto& [call, times] : calls)
    seconds += static_cast<double>(times) * std::min(seconds_of(call, at::MemoryFormat::Contiguous, team),
                                                     seconds_of(call, at::MemoryFormat::ChannelsLast, team));
  return seconds;
}

double matrix_flops_per_second(at::ScalarType type) {
  constexpr std::int64_t kSize = 1024;
  const at::Tensor a = at::randn({kSize, kSize}, type), b = at::randn({kSize, kSize}, type);
  return 2.0 * kSize * kSize * kSize / shortest_seconds([&] { at::mm(a, b); });
}

}  // namespace perrin::launch
