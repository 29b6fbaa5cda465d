#include "comm/node_all_reduce.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "comm/node_memory.hpp"
#include "comm/range.hpp"
#include "comm/streaming_copy.hpp"
#include "comm/tree_reduction.hpp"

namespace perrin::comm {
namespace {

// Bytes reduced at a time: what was just written to the buffer is copied for the others from the first-level cache.
constexpr std::size_t kBlockBytes = std::size_t{8} << 10;
// What larger buffers give to other ranks passes the caches by. Measured on 2 ranks whose cores share no cache, as
// virtual cores often do: 143 MB in 40 ms in place of 112, 10 MB in 2.5 ms in place of 7.5; but 1 MB, on cores that
// share one, in 0.20 ms in place of 0.12.
constexpr std::size_t kStreamedBytes = std::size_t{2} << 20;

/// Piece i + 1 is offered before piece i is reduced, and the results of piece i - 1 are collected after it: a rank
/// waits once for each piece, and only for ranks that are behind.
class NodeAllReduce final : public Schedule {
 public:
  NodeAllReduce(const Group& group, std::byte* data, std::size_t count, DataType type, ReduceOp op)
      : group_(group),
        node_(*group.node),
        data_(data),
        count_(count),
        element_(size_of(type)),
        signature_{count * element_, type, op},
        piece_elements_(node_.slot_bytes() / element_ * static_cast<std::size_t>(group.size)),
        pieces_((count + piece_elements_ - 1) / piece_elements_) {}

  bool next(Round& round) override {
    if (pieces_ == 0) return false;
    if (!begun_) {
      begun_ = true;
      first_ = node_.begin_pieces(pieces_);
      offer(0);
      await_offers_of(0, round);
      return true;
    }
    if (next_ == pieces_) {
      collect(pieces_ - 1);
      return false;
    }
    const std::size_t piece = next_++;
    if (piece == 0) require_same_operation();
    if (piece + 1 < pieces_) offer(piece + 1);
    reduce(piece);
    if (piece > 0) collect(piece - 1);
    if (piece + 1 < pieces_) await_offers_of(piece + 1, round);
    await_results_of(piece, round);
    return true;
  }

 private:
  Range slice(std::size_t piece, int r) const {
    const std::size_t begin = piece * piece_elements_;
    return part_of({begin, std::min(begin + piece_elements_, count_)}, r, group_.size);
  }
  void give(std::byte* destination, const std::byte* source, std::size_t bytes) const {
    if (signature_.bytes >= kStreamedBytes) {
      streaming_copy(destination, source, bytes);
    } else {
      std::memcpy(destination, source, bytes);
    }
  }
  std::byte* at(std::size_t element) const { return data_ + element * element_; }

  void offer(std::size_t piece) {
    for_each_peer([&](int peer) {
      const Range given = slice(piece, peer);
      if (given.length() > 0)
        give(node_.contribution_to(peer, first_ + piece), at(given.begin), given.length() * element_);
    });
    node_.offer(first_ + piece, signature_);
  }

  void reduce(std::size_t piece) {
    const Range own = slice(piece, group_.rank);
    std::byte* result = node_.result_of(group_.rank, first_ + piece);
    const std::size_t block = kBlockBytes / element_;
    sources_.resize(static_cast<std::size_t>(group_.size));
    for (std::size_t begin = own.begin; begin < own.end; begin += block) {
      const std::size_t offset = (begin - own.begin) * element_;
      const std::size_t count = std::min(block, own.end - begin);
      for (int r = 0; r < group_.size; ++r) {
        sources_[static_cast<std::size_t>(r)] =
            r == group_.rank ? at(begin) : node_.contribution_of(r, first_ + piece) + offset;
      }
      reduce_in_tree(sources_, at(begin), count, signature_.type, signature_.op);
      give(result + offset, at(begin), count * element_);
    }
    node_.finish(first_ + piece);
  }

  void collect(std::size_t piece) {
    for_each_peer([&](int peer) {
      const Range taken = slice(piece, peer);
      if (taken.length() > 0)
        std::memcpy(at(taken.begin), node_.result_of(peer, first_ + piece), taken.length() * element_);
    });
  }

  void await_offers_of(std::size_t piece, Round& round) const {
    for_each_peer([&](int peer) { round.signals.push_back({peer, &node_.offered(peer), first_ + piece + 1}); });
  }
  void await_results_of(std::size_t piece, Round& round) const {
    for_each_peer([&](int peer) { round.signals.push_back({peer, &node_.reduced(peer), first_ + piece + 1}); });
  }

  void require_same_operation() const {
    for_each_peer([&](int peer) {
      const ReductionSignature& theirs = node_.signature_of(peer, first_);
      if (theirs == signature_) return;
      throw std::runtime_error(
          fmt::format("rank {} reduces {} bytes {} ({}) where this rank reduces {} bytes {} ({}): the ranks submitted "
                      "different operations or counts",
                      peer, theirs.bytes, name_of(theirs.type), name_of(theirs.op), signature_.bytes,
                      name_of(signature_.type), name_of(signature_.op)));
    });
  }

  /// Starting after this rank, so that not all ranks read the same memory first.
  template <typename Visit>
  void for_each_peer(const Visit& visit) const {
    for (int step = 1; step < group_.size; ++step) visit((group_.rank + step) % group_.size);
  }

  Group group_;
  NodeMemory& node_;
  std::byte* data_;
  std::size_t count_;
  std::size_t element_;
  ReductionSignature signature_;
  std::size_t piece_elements_;
  std::size_t pieces_;
  bool begun_ = false;
  std::uint64_t first_ = 0;  // number in NodeMemory of piece 0
  std::size_t next_ = 0;     // piece to be reduced
  std::vector<const std::byte*> sources_;
};

}  // namespace

std::unique_ptr<Schedule> node_all_reduce_schedule(const Group& group, std::byte* data, std::size_t count,
                                                   DataType type, ReduceOp op) {
  return std::make_unique<NodeAllReduce>(group, data, count, type, op);
}

}  // namespace perrin::comm
