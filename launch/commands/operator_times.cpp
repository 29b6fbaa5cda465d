#include "launch/commands/operator_times.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "comm/steady_clock.hpp"
#include "trainer/model/fused_norm.hpp"

namespace perrin::launch {
namespace {

constexpr std::array<std::string_view, kStepParts> kNames = {"convolution", "norm",          "attention", "optimizer",
                                                             "input",       "communication", "other"};

/// Parts of names of operators ("aten::mkldnn_convolution"), nodes of backward ("SiluBackward0") and scopes, in lower
/// case; the first that occurs decides.
constexpr std::array<std::pair<std::string_view, StepPart>, 9> kWords = {{
    {"input", StepPart::input},
    {"conv", StepPart::convolution},
    {"norm", StepPart::norm},
    {"silu", StepPart::norm},
    {"attention", StepPart::attention},
    {"softmax", StepPart::attention},
    {"linear", StepPart::attention},
    {"mm", StepPart::attention},
    {"matmul", StepPart::attention},
}};

std::optional<StepPart> part_of(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const auto& [word, part] : kWords)
    if (name.find(word) != std::string::npos) return part;
  return std::nullopt;
}

}  // namespace

std::string_view name_of(StepPart part) { return kNames[static_cast<std::size_t>(part)]; }

struct OperatorTimes::Frame : at::ObserverContext {
  Frame* caller = nullptr;
  StepPart part = StepPart::other;
  std::int64_t begun_ns = 0, callees_ns = 0;
};

OperatorTimes* OperatorTimes::listening_ = nullptr;

OperatorTimes::OperatorTimes()
    : handle_(at::addThreadLocalCallback(
          at::RecordFunctionCallback(&OperatorTimes::begin, &OperatorTimes::end)
              .needsInputs(true)
              .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION, at::RecordScope::USER_SCOPE}))) {
  listening_ = this;
}

OperatorTimes::~OperatorTimes() {
  at::removeCallback(handle_);
  listening_ = nullptr;
}

std::unique_ptr<at::ObserverContext> OperatorTimes::begin(const at::RecordFunction& function) {
  auto frame = std::make_unique<Frame>();
  const std::lock_guard lock(listening_->mutex_);
  frame->caller = std::exchange(listening_->threads_[std::this_thread::get_id()].innermost, frame.get());
  frame->part = part_of(function.name()).value_or(frame->caller != nullptr ? frame->caller->part : StepPart::other);
  listening_->note_work(function);
  frame->begun_ns = comm::steady_ns();
  return frame;
}

void OperatorTimes::end(const at::RecordFunction&, at::ObserverContext* context) {
  auto& frame = static_cast<Frame&>(*context);
  const std::int64_t elapsed = comm::steady_ns() - frame.begun_ns;
  const std::lock_guard lock(listening_->mutex_);
  OfThread& own = listening_->threads_[std::this_thread::get_id()];
  own.self_ns[static_cast<std::size_t>(frame.part)] += elapsed - frame.callees_ns;
  own.innermost = frame.caller;
  if (frame.caller != nullptr) frame.caller->callees_ns += elapsed;
}

double OperatorTimes::seconds(StepPart part) const {
  double own = 0, others = 0, other_threads = 0;
  for (const auto& [thread, times] : threads_) {
    const double seconds = 1e-9 * static_cast<double>(times.self_ns[static_cast<std::size_t>(part)]);
    (thread == owner_ ? own : others) += seconds;
    other_threads += thread == owner_ ? 0 : 1;
  }
  return own + (other_threads > 0 ? others / other_threads : 0);
}

void OperatorTimes::note_work(const at::RecordFunction& function) {
  const std::string_view name = function.name();
  const auto inputs = function.inputs();
  const auto tensor = [&](std::size_t i) -> const at::Tensor& { return inputs[i].toTensor(); };
  if (name == "aten::convolution") {
    ++work_.convolutions[{.input = tensor(0).sizes().vec(),
                          .weight = tensor(1).sizes().vec(),
                          .stride = inputs[3].toIntVector(),
                          .padding = inputs[4].toIntVector(),
                          .type = tensor(0).scalar_type(),
                          .transposed = inputs[6].toBool(),
                          .input_gradient = tensor(0).requires_grad()}];
  } else if (name == "aten::group_norm" || name == trainer::kNormScope) {
    for (const c10::IValue& input : inputs)  // of the fused operator all are activations
      if (input.isTensor() && input.toTensor().defined() && input.toTensor().dim() == 4)
        work_.norm_bytes += static_cast<double>(input.toTensor().nbytes());
  } else if (name == "aten::linear") {
    work_.matrix_flops += 2 * static_cast<double>(tensor(0).numel()) * static_cast<double>(tensor(1).size(0));
  } else if (name == "aten::matmul" && tensor(0).dim() == 4) {
    work_.matrix_flops += 2 * static_cast<double>(tensor(0).numel()) * static_cast<double>(tensor(1).size(-1));
  } else if (name == "aten::scaled_dot_product_attention") {
    work_.matrix_flops += 4 * static_cast<double>(tensor(0).numel()) * static_cast<double>(tensor(0).size(-2));
  }
}

}  // namespace perrin::launch
