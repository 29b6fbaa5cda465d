#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/data_type.hpp"

namespace perrin::comm {

/// Bytes that go to or come from one peer.
struct Transfer {
  int peer;
  std::byte* data;  ///< read only when it is sent
  std::size_t bytes;
};

/// A counter of a peer in memory that both see, and what it must have reached.
struct Signal {
  int peer;
  const std::atomic<std::uint64_t>* counter;
  std::uint64_t at_least;
};

/// Transfers that may be under way at the same time, and signals that are waited for with them. An empty message (a
/// barrier's) is a Transfer of 0 bytes.
struct Round {
  std::vector<Transfer> sends;
  std::vector<Transfer> receives;
  std::vector<Signal> signals;
};

/// A collective as this rank sees it: rounds of point-to-point transfers with local work between them. Since only this
/// rank's own receives and copies write to its buffers, an operation can be withdrawn, its late ranks are known, and
/// the order of every sum is perrin's.
class Schedule {
 public:
  virtual ~Schedule() = default;
  /// Does the local work that the last round's data allow, then fills the next round.
  /// @return false when the collective is complete
  virtual bool next(Round& round) = 0;
};

class NodeMemory;

/// What all schedules of one communicator share.
struct Group {
  int rank;
  int size;
  std::size_t piece_bytes;          ///< no message is longer, no reduction stages more
  std::vector<std::byte>* staging;  ///< received parts before they are reduced; used by one operation at a time
  NodeMemory* node;                 ///< through which all_reduce goes; null if the ranks share no memory
};

/// The collectives of Communicator, by the same names. Sum of all slices: all-to-all of slices, fixed tree, all-gather.
std::unique_ptr<Schedule> all_reduce_schedule(const Group& group, std::byte* data, std::size_t count, DataType type,
                                              ReduceOp op);
std::unique_ptr<Schedule> reduce_scatter_schedule(const Group& group, const std::byte* input, std::byte* output,
                                                  std::size_t count, DataType type, ReduceOp op);
std::unique_ptr<Schedule> all_gather_schedule(const Group& group, const std::byte* input, std::byte* output,
                                              std::size_t bytes);
std::unique_ptr<Schedule> all_to_all_schedule(const Group& group, const std::byte* input, std::byte* output,
                                              std::size_t bytes);
std::unique_ptr<Schedule> broadcast_schedule(const Group& group, std::byte* data, std::size_t bytes, int root);
std::unique_ptr<Schedule> barrier_schedule(const Group& group);

}  // namespace perrin::comm
