#pragma once

#include <ATen/record_function.h>

namespace perrin::trainer {

/// Says for profilers what the operators within it, and work that is no operator of LibTorch's, belong to; one test of
/// a flag where none listens.
class OperatorScope {
 public:
  /// @param name  a literal: it is kept by address
  explicit OperatorScope(const char* name) : record_(at::RecordScope::USER_SCOPE) {
    if (record_.isActive()) record_.before(name);
  }

 private:
  at::RecordFunction record_;
};

}  // namespace perrin::trainer
