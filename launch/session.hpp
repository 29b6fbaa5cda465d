#pragma once

#include <optional>

#include "comm/world.hpp"
#include "launch/failure.hpp"

namespace perrin::launch {

/// What the launcher's environment says of this process before MPI is started.
struct LaunchedAs {
  int rank = 0;
  int size = 1;
};

/// From OMPI_COMM_WORLD_*, PMIX_RANK or PMI_*; rank 0 of 1 where no launcher has started this process.
LaunchedAs launched_as();

/// One start of the program: its place among the ranks, the world once a command needs it, and the way out. main()
/// keeps it outside the try block, so that the world is still there when a failure is reported.
class Session {
 public:
  Session();

  /// Before start_world what the launcher says, afterwards what MPI says.
  int rank() const noexcept { return world_ ? world_->rank() : launched_.rank; }
  int size() const noexcept { return world_ ? world_->size() : launched_.size; }
  bool is_root() const noexcept { return rank() == 0; }

  /// Joins the other ranks; commands that need none never call it. @throws comm::CommError
  comm::World& start_world(const comm::WorldOptions& options);

  /// Says what went wrong and takes all ranks along. Where all ranks fail alike rank 0 alone speaks: the others hold
  /// back until it has ended them, and speak for themselves if it does not.
  /// @return the exit code, where this process may leave by itself
  int fail(const Failure& failure) noexcept;

 private:
  LaunchedAs launched_;
  std::optional<comm::World> world_;
};

}  // namespace perrin::launch
