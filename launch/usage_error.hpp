#pragma once

#include <stdexcept>

namespace perrin::launch {

/// A command line that cannot be understood.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace perrin::launch
