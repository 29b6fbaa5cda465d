#pragma once

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "comm/data_type.hpp"

namespace perrin::comm {

/// What a rank is reducing; ranks that differ in it have submitted different operations.
struct ReductionSignature {
  std::uint64_t bytes;
  DataType type;
  ReduceOp op;
  bool operator==(const ReductionSignature&) const = default;
};

/// Memory through which the ranks of one node reduce a buffer piece by piece. Each rank writes its own part only and
/// reads those of the others, so a rank that fails or withdraws cannot harm their memory. It has no name in any file
/// system: it is gone with the last process that maps it, however that ends.
///
/// Piece k of a rank lies in one of two halves: a slot for each rank that says what this rank adds to that rank's
/// slice. The reduced slice lies in one of three result slots. So a rank can offer piece k + 1 and reduce piece k while
/// a slower one still copies the results of piece k - 1.
class NodeMemory {
 public:
  /// Collective. @param piece_bytes bytes of one piece of a buffer, over all ranks; rounded up to 64 for each
  /// @return null, on all ranks alike, if they are not all on one node or it does not let them share memory
  /// @throws CommError if not all ranks take part within the deadline
  static std::unique_ptr<NodeMemory> shared_by(MPI_Comm comm, std::size_t piece_bytes,
                                               std::chrono::milliseconds deadline);
  NodeMemory(const NodeMemory&) = delete;
  NodeMemory& operator=(const NodeMemory&) = delete;
  ~NodeMemory();

  std::size_t slot_bytes() const noexcept { return slot_bytes_; }

  /// Number of the first of so many pieces. The same on all ranks, which submit the same operations.
  std::uint64_t begin_pieces(std::uint64_t count) noexcept { return std::exchange(begun_, begun_ + count); }

  /// What this rank adds to the slice of rank r.
  std::byte* contribution_to(int r, std::uint64_t piece) noexcept { return contribution(rank_, r, piece); }
  /// What a rank adds to the slice of this rank, once offered() of that rank is above `piece`.
  const std::byte* contribution_of(int r, std::uint64_t piece) const noexcept { return contribution(r, rank_, piece); }
  /// The reduced slice of a rank, once reduced() of that rank is above `piece`. Only this rank's own may be written.
  std::byte* result_of(int r, std::uint64_t piece) const noexcept;

  void offer(std::uint64_t piece, const ReductionSignature& signature) noexcept;
  void finish(std::uint64_t piece) noexcept;
  const std::atomic<std::uint64_t>& offered(int r) const noexcept { return header(r).offered; }
  const std::atomic<std::uint64_t>& reduced(int r) const noexcept { return header(r).reduced; }
  const ReductionSignature& signature_of(int r, std::uint64_t piece) const noexcept {
    return header(r).signatures[piece % 2];
  }

 private:
  /// Counters apart, so that a poll of one does not take the cache line of another away from its writer.
  struct Header {
    std::uint64_t token;  // shows that the file that was opened is the one that was meant
    ReductionSignature signatures[2];
    alignas(64) std::atomic<std::uint64_t> offered;  // pieces
    alignas(64) std::atomic<std::uint64_t> reduced;  // pieces
  };
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "a lock would not be shared");
  struct Invitation;

  NodeMemory(int rank, int size, std::size_t piece_bytes);
  Invitation invite();
  bool map_all(const std::vector<Invitation>& invitations);
  void close_own_file() noexcept;

  Header& header(int r) const noexcept { return *static_cast<Header*>(parts_[static_cast<std::size_t>(r)]); }
  std::byte* slot(int r, std::size_t index) const noexcept;
  std::byte* contribution(int from, int to, std::uint64_t piece) const noexcept;

  int rank_;
  int size_;
  std::size_t slot_bytes_;
  std::size_t part_bytes_;
  int own_file_ = -1;
  std::vector<void*> parts_;  // of each rank; null where not mapped
  std::uint64_t begun_ = 0;
};

}  // namespace perrin::comm
