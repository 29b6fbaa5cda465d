#pragma once

#include <stdexcept>

namespace perrin::trainer {

/// A run that cannot start or go on as asked: its folder is held by another process or not writable.
class RunError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Another start of the same run has taken over.
class RunSuperseded : public RunError {
 public:
  using RunError::RunError;
};

/// The run's numbers went wrong, and going back did not help.
class RunDiverged : public RunError {
 public:
  using RunError::RunError;
};

}  // namespace perrin::trainer
