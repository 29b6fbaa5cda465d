#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "comm/communicator.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::trainer {

/// Which start of a run this is, written in its folder (incarnation.json). It fences off a start that was given up for
/// dead, behind a broken link say, and whose lock does not reach here: before it publishes anything it reads the number
/// of another.
class Incarnation {
 public:
  /// Takes the next number: one above the file's and above every checkpoint's. Collective; rank 0 holds the run.
  /// @throws data::DataError on rank 0
  static Incarnation begin(const RunPaths& paths, comm::Communicator& control);

  /// Takes the next number again, after a return to an earlier checkpoint. Collective.
  void advance(comm::Communicator& control);

  /// From 1.
  std::int64_t number() const { return number_; }
  /// Whether this rank sees the run folder in which rank 0 began; waits a little for a network file system.
  bool visible() const;
  /// Of rank 0. @throws RunSuperseded if another start has taken the run since; data::DataError
  void require_current() const;

 private:
  explicit Incarnation(RunPaths paths) : paths_(std::move(paths)) {}
  bool is_in_file() const;

  RunPaths paths_;
  std::int64_t number_ = 0;
  std::uint64_t nonce_ = 0;
};

}  // namespace perrin::trainer
