#pragma once

#include <stdexcept>

namespace perrin::trainer {

/// A run that cannot start or go on as asked: its folder is held by another process or not writable, or its numbers
/// went wrong.
class RunError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace perrin::trainer
