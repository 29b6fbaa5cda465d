#include "comm/work.hpp"

#include <exception>
#include <utility>

namespace perrin::comm {
namespace {

// MPI cannot take a send back: it may read the buffer until the peer has it, and the buffer goes right after the Work.
// Peers that live have it within milliseconds; for others nobody waits longer than this.
constexpr std::chrono::milliseconds kUnwindingGrace{500};

}  // namespace

Work::Work(std::shared_ptr<PendingOperation> operation) noexcept
    : operation_(std::move(operation)), exceptions_at_birth_(std::uncaught_exceptions()) {}

Work::Work(Work&& other) noexcept
    : operation_(std::exchange(other.operation_, nullptr)),
      exceptions_at_birth_(other.exceptions_at_birth_),
      late_(other.late_) {}

Work& Work::operator=(Work&& other) noexcept {
  if (this != &other) {
    finish();
    operation_ = std::exchange(other.operation_, nullptr);
    exceptions_at_birth_ = other.exceptions_at_birth_;
    late_ = other.late_;
  }
  return *this;
}

Work::~Work() { finish(); }

bool Work::done() const { return operation_ == nullptr || operation_->done(); }

void Work::wait() {
  if (operation_ != nullptr) wait(operation_->default_deadline());
}

void Work::wait(std::chrono::milliseconds deadline) {
  if (operation_ == nullptr) return;
  late_ = true;
  operation_->wait(deadline);
  late_ = false;
  operation_.reset();
}

void Work::join(void* compute_stream) {
  if (operation_ == nullptr) return;
  operation_->join(compute_stream);
  operation_.reset();
}

void Work::finish() noexcept {
  if (operation_ == nullptr) return;
  const bool unwinding = std::uncaught_exceptions() > exceptions_at_birth_;
  try {
    if (!late_) operation_->wait(unwinding ? kUnwindingGrace : operation_->default_deadline());
  } catch (...) {  // the communicator keeps the failure and throws it at its next operation
  }
  if (!operation_->done()) operation_->abandon();
  operation_.reset();
}

}  // namespace perrin::comm
