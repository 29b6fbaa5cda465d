#pragma once

#include <exception>
#include <string>

#include "launch/exit_code.hpp"

namespace perrin::launch {

/// What an exception means for the user and for the batch script.
struct Failure {
  ExitCode code = ExitCode::internal;
  std::string message;
};

/// Each layer's exception type has its exit code; whatever else arrives is an error in perrin.
Failure describe_failure(const std::exception_ptr& exception);

}  // namespace perrin::launch
