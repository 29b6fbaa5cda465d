#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "comm/world.hpp"
#include "data/part.hpp"
#include "launch/failure.hpp"

namespace perrin::launch {

/// Ranks that work on files together: what fails on one ends the work on all. Every call is collective, and waits for
/// the others for as long as files take. A rank alone just does the work.
/// @throws RankFailure on every rank, naming the first that failed; comm::CommError
class Team {
 public:
  /// @param world  outlives it
  explicit Team(comm::World& world) : world_(world) {}

  bool is_root() const noexcept { return world_.is_root(); }
  data::Part part() const noexcept;

  /// Runs the action on every rank.
  void run(const std::function<void()>& action);
  /// Runs the action on rank 0, and gives its result to all.
  std::string from_root(const std::function<std::string()>& action);
  /// The text of every rank.
  std::vector<std::string> gather(const std::string& text);

  /// Told how much of a rank's share is done.
  using Report = std::function<void(std::uint64_t done)>;
  /// Runs work that takes long on every rank. Where a rank fails, the others stop at their next report.
  /// @param show  called on rank 0 now and then with what all ranks together have done
  void share(const std::function<void(const Report&)>& work, const Report& show);

 private:
  void agree(const std::optional<Failure>& failure);

  comm::World& world_;
};

}  // namespace perrin::launch
