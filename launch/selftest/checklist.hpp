#pragma once

#include <functional>
#include <string>

#include "comm/world.hpp"

namespace perrin::launch {

/// What a check found on this rank.
struct Finding {
  enum class Kind { passed, failed, skipped };
  Kind kind = Kind::passed;
  std::string reason = {};  ///< of a failure or a skip: one line

  static Finding pass() { return {}; }
  static Finding fail(std::string reason) { return {Kind::failed, std::move(reason)}; }
  static Finding skip(std::string reason) { return {Kind::skipped, std::move(reason)}; }
};

/// Runs checks on all ranks and agrees on one verdict for each: failed if it failed on any rank, which is then named,
/// else skipped if it was skipped on any. Rank 0 prints a line for each, before the check its name, so that a check
/// that hangs is known.
class Checklist {
 public:
  explicit Checklist(comm::World& world) : world_(world) {}

  /// Collective. An exception of `check` on a rank is a failure there, except a comm::CommError, which is thrown on:
  /// the ranks no longer agree on anything then.
  void run(const std::string& name, const std::function<Finding()>& check);
  /// Prints "N passed, N failed, N skipped". @return whether none failed
  bool conclude() const;

 private:
  comm::World& world_;
  int passed_ = 0, failed_ = 0, skipped_ = 0;
};

}  // namespace perrin::launch
