#pragma once

#include <ATen/record_function.h>

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

namespace perrin::launch {

/// What the time of a training step is spent on.
enum class StepPart { convolution, norm, attention, optimizer, input, communication, other };
inline constexpr std::size_t kStepParts = static_cast<std::size_t>(StepPart::other) + 1;

std::string_view name_of(StepPart part);

/// A convolution as a forward pass called it; equal ones are counted once.
struct ConvolutionCall {
  std::vector<std::int64_t> input, weight;  ///< sizes
  std::vector<std::int64_t> stride, padding;
  at::ScalarType type = at::kFloat;
  bool transposed = false;
  bool input_gradient = false;  ///< false where the input is an image

  auto operator<=>(const ConvolutionCall&) const = default;
};

/// What the operators did, as far as their limits need it.
struct OperatorWork {
  std::map<ConvolutionCall, std::int64_t> convolutions;  ///< and how often each was called
  double norm_bytes = 0;                                 ///< of the inputs of normalizations
  double matrix_flops = 0;  ///< forward: 2 for a multiplication and an addition; linear layers and attention
};

/// Listens to LibTorch's operators on this thread, and on those of trainer::ThreadTeam that work for it, while it
/// lives, and adds up their own time, without that of the operators they call, by part. The part is told by the
/// operator's name (convolution, norm and SiLU, attention and linear layers) or by an OperatorScope of the trainer's;
/// an operator without either belongs to its caller's part. On a GPU it would measure launches, not work.
class OperatorTimes {
 public:
  /// One at a time in a process.
  OperatorTimes();
  OperatorTimes(const OperatorTimes&) = delete;
  OperatorTimes& operator=(const OperatorTimes&) = delete;
  ~OperatorTimes();

  /// On this thread, and of the others, which work at the same time, the mean.
  double seconds(StepPart part) const;
  const OperatorWork& work() const { return work_; }

 private:
  struct Frame;
  struct OfThread {
    Frame* innermost = nullptr;
    std::array<std::int64_t, kStepParts> self_ns{};
  };
  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function);
  static void end(const at::RecordFunction& function, at::ObserverContext* context);
  void note_work(const at::RecordFunction& function);

  static OperatorTimes* listening_;  // callbacks are plain functions

  at::CallbackHandle handle_;
  const std::thread::id owner_ = std::this_thread::get_id();
  std::mutex mutex_;
  std::map<std::thread::id, OfThread> threads_;
  OperatorWork work_;
};

}  // namespace perrin::launch
