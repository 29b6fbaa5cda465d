#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace perrin::comm {

/// One collective as an error names it.
struct OperationId {
  std::string operation;       ///< "all_reduce", "barrier", ...; "start" for the launch itself
  std::uint64_t sequence = 0;  ///< number of the operation on its communicator, from 1; 0 outside a collective
  std::size_t bytes = 0;       ///< bytes of the caller's buffer
  int rank = 0;                ///< the rank that reports
};

/// What the outside world did to a communication: a peer that is late or gone, a launch that went wrong, a failing
/// library.
class CommError : public std::runtime_error {
 public:
  /// @param reason what happened and how to fix it; the message puts the operation, its number, bytes and rank before
  /// it
  /// @param late_ranks ranks that had not answered, where that is known
  CommError(OperationId id, const std::string& reason, std::vector<int> late_ranks = {});

  const std::string& operation() const noexcept { return id_.operation; }
  std::uint64_t sequence() const noexcept { return id_.sequence; }
  std::size_t bytes() const noexcept { return id_.bytes; }
  int rank() const noexcept { return id_.rank; }
  const std::vector<int>& late_ranks() const noexcept { return late_ranks_; }

 private:
  OperationId id_;
  std::vector<int> late_ranks_;
};

}  // namespace perrin::comm
