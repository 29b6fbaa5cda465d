#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>

#include <initializer_list>
#include <vector>

namespace perrin::trainer {

/// Says for profilers what the operators within it, and work that is no operator of LibTorch's, belong to; one test of
/// a flag where none listens.
class OperatorScope {
 public:
  /// @param name  a literal: it is kept by address
  explicit OperatorScope(const char* name) : record_(at::RecordScope::USER_SCOPE) {
    if (record_.isActive()) record_.before(name);
  }
  /// @param inputs  that listeners may look at; they live until the constructor returns
  OperatorScope(const char* name, std::initializer_list<at::Tensor> inputs) : record_(at::RecordScope::USER_SCOPE) {
    if (!record_.isActive()) return;
    const std::vector<c10::IValue> values(inputs.begin(), inputs.end());
    record_.before(name, c10::ArrayRef<const c10::IValue>(values.data(), values.size()));
  }

 private:
  at::RecordFunction record_;
};

}  // namespace perrin::trainer
