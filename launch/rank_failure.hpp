#pragma once

#include <stdexcept>

#include "launch/failure.hpp"

namespace perrin::launch {

/// What went wrong on some rank, thrown on all of them.
class RankFailure : public std::runtime_error {
 public:
  explicit RankFailure(const Failure& failure) : std::runtime_error(failure.message), code_(failure.code) {}

  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

}  // namespace perrin::launch
