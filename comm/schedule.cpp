#include "comm/schedule.hpp"

#include <algorithm>
#include <cstring>

#include "comm/node_all_reduce.hpp"
#include "comm/range.hpp"
#include "comm/tree_reduction.hpp"

namespace perrin::comm {
namespace {

void add(std::vector<Transfer>& transfers, int peer, const std::byte* data, std::size_t bytes) {
  if (bytes > 0) transfers.push_back({peer, const_cast<std::byte*>(data), bytes});
}

/// The other ranks, starting after this one, so that not all ranks talk to the same peer first.
std::vector<int> peers_of(const Group& group) {
  std::vector<int> peers;
  for (int step = 1; step < group.size; ++step) peers.push_back((group.rank + step) % group.size);
  return peers;
}

/// A schedule that works through `length` elements or bytes in pieces.
class PiecewiseSchedule : public Schedule {
 public:
  PiecewiseSchedule(const Group& group, std::size_t length, std::size_t longest_piece)
      : group_(group),
        peers_(peers_of(group)),
        length_(length),
        longest_piece_(std::max<std::size_t>(longest_piece, 1)) {}

 protected:
  bool next_piece() {
    piece_ = {piece_.end, piece_.end + std::min(longest_piece_, length_ - piece_.end)};
    return piece_.length() > 0;
  }

  Group group_;
  std::vector<int> peers_;
  Range piece_{0, 0};

 private:
  std::size_t length_;
  std::size_t longest_piece_;
};

/// Receives one part from every peer into the staging memory and reduces them with this rank's own.
class TreeOfParts {
 public:
  TreeOfParts(const Group& group, DataType type, ReduceOp op) : group_(group), type_(type), op_(op) {}

  void receive(const std::vector<int>& peers, const std::byte* own, std::size_t count,
               std::vector<Transfer>& receives) {
    const std::size_t bytes = count * size_of(type_);
    if (group_.staging->size() < peers.size() * bytes) group_.staging->resize(peers.size() * bytes);
    sources_.assign(static_cast<std::size_t>(group_.size), own);
    count_ = count;
    std::byte* slot = group_.staging->data();
    for (const int peer : peers) {
      add(receives, peer, slot, bytes);
      sources_[static_cast<std::size_t>(peer)] = slot;
      slot += bytes;
    }
  }

  void reduce_into(std::byte* output) const { reduce_in_tree(sources_, output, count_, type_, op_); }

 private:
  Group group_;
  DataType type_;
  ReduceOp op_;
  std::vector<const std::byte*> sources_;
  std::size_t count_ = 0;
};

class AllReduce final : public PiecewiseSchedule {
 public:
  AllReduce(const Group& group, std::byte* data, std::size_t count, DataType type, ReduceOp op)
      : PiecewiseSchedule(group, count, group.piece_bytes / size_of(type)),
        data_(data),
        element_(size_of(type)),
        tree_(group, type, op) {}

  bool next(Round& round) override {
    if (!slices_under_way_) {
      if (!next_piece()) return false;
      const Range own = slice(group_.rank);
      tree_.receive(peers_, at(own), own.length(), round.receives);
      for (const int peer : peers_) add(round.sends, peer, at(slice(peer)), slice(peer).length() * element_);
      slices_under_way_ = true;
      return true;
    }
    const Range own = slice(group_.rank);
    tree_.reduce_into(at(own));
    for (const int peer : peers_) {
      add(round.receives, peer, at(slice(peer)), slice(peer).length() * element_);
      add(round.sends, peer, at(own), own.length() * element_);
    }
    slices_under_way_ = false;
    return true;
  }

 private:
  Range slice(int r) const { return part_of(piece_, r, group_.size); }
  std::byte* at(Range range) const { return data_ + range.begin * element_; }

  std::byte* data_;
  std::size_t element_;
  TreeOfParts tree_;
  bool slices_under_way_ = false;
};

class ReduceScatter final : public PiecewiseSchedule {
 public:
  ReduceScatter(const Group& group, const std::byte* input, std::byte* output, std::size_t count, DataType type,
                ReduceOp op)
      : PiecewiseSchedule(group, count, group.piece_bytes / size_of(type) / static_cast<std::size_t>(group.size)),
        input_(input),
        output_(output),
        count_(count),
        element_(size_of(type)),
        tree_(group, type, op) {}

  bool next(Round& round) override {
    if (piece_.length() > 0) tree_.reduce_into(output_ + piece_.begin * element_);
    if (!next_piece()) return false;
    tree_.receive(peers_, part(group_.rank), piece_.length(), round.receives);
    for (const int peer : peers_) add(round.sends, peer, part(peer), piece_.length() * element_);
    return true;
  }

 private:
  const std::byte* part(int r) const {
    return input_ + (static_cast<std::size_t>(r) * count_ + piece_.begin) * element_;
  }

  const std::byte* input_;
  std::byte* output_;
  std::size_t count_;
  std::size_t element_;
  TreeOfParts tree_;
};

/// Every rank sends the bytes of the piece to every peer: all_gather sends the same ones to all, all_to_all different
/// ones to each.
class Exchange final : public PiecewiseSchedule {
 public:
  /// @param input_stride bytes between what is meant for rank r and for rank r + 1
  Exchange(const Group& group, const std::byte* input, std::size_t input_stride, std::byte* output, std::size_t bytes)
      : PiecewiseSchedule(group, bytes, group.piece_bytes),
        input_(input),
        input_stride_(input_stride),
        output_(output),
        bytes_(bytes) {}

  bool next(Round& round) override {
    if (!next_piece()) return false;
    const std::byte* own_in = input_part(group_.rank);
    std::byte* own_out = output_part(group_.rank);
    if (own_in != own_out) std::memcpy(own_out, own_in, piece_.length());
    for (const int peer : peers_) {
      add(round.receives, peer, output_part(peer), piece_.length());
      add(round.sends, peer, input_part(peer), piece_.length());
    }
    return true;
  }

 private:
  const std::byte* input_part(int r) const {
    return input_ + static_cast<std::size_t>(r) * input_stride_ + piece_.begin;
  }
  std::byte* output_part(int r) const { return output_ + static_cast<std::size_t>(r) * bytes_ + piece_.begin; }

  const std::byte* input_;
  std::size_t input_stride_;
  std::byte* output_;
  std::size_t bytes_;
};

/// The root deals out slices, then all ranks exchange them: the root sends each byte about once, not once per rank.
class Broadcast final : public PiecewiseSchedule {
 public:
  Broadcast(const Group& group, std::byte* data, std::size_t bytes, int root)
      : PiecewiseSchedule(group, bytes, group.piece_bytes), data_(data), root_(root) {}

  bool next(Round& round) override {
    if (!dealt_out_) {
      if (!next_piece()) return false;
      if (group_.rank == root_) {
        for (const int peer : peers_) add(round.sends, peer, at(peer), slice(peer).length());
      } else {
        add(round.receives, root_, at(group_.rank), slice(group_.rank).length());
      }
      dealt_out_ = true;
      return true;
    }
    for (const int peer : peers_) {
      if (peer != root_) add(round.sends, peer, at(group_.rank), slice(group_.rank).length());
      if (group_.rank != root_) add(round.receives, peer, at(peer), slice(peer).length());
    }
    dealt_out_ = false;
    return true;
  }

 private:
  Range slice(int r) const { return part_of(piece_, r, group_.size); }
  std::byte* at(int r) const { return data_ + slice(r).begin; }

  std::byte* data_;
  int root_;
  bool dealt_out_ = false;
};

class Barrier final : public Schedule {
 public:
  explicit Barrier(const Group& group) : peers_(peers_of(group)) {}

  bool next(Round& round) override {
    if (met_) return false;
    for (const int peer : peers_) {
      round.receives.push_back({peer, nullptr, 0});
      round.sends.push_back({peer, nullptr, 0});
    }
    met_ = true;
    return true;
  }

 private:
  std::vector<int> peers_;
  bool met_ = false;
};

}  // namespace

std::unique_ptr<Schedule> all_reduce_schedule(const Group& group, std::byte* data, std::size_t count, DataType type,
                                              ReduceOp op) {
  if (group.node != nullptr) return node_all_reduce_schedule(group, data, count, type, op);
  return std::make_unique<AllReduce>(group, data, count, type, op);
}

std::unique_ptr<Schedule> reduce_scatter_schedule(const Group& group, const std::byte* input, std::byte* output,
                                                  std::size_t count, DataType type, ReduceOp op) {
  return std::make_unique<ReduceScatter>(group, input, output, count, type, op);
}

std::unique_ptr<Schedule> all_gather_schedule(const Group& group, const std::byte* input, std::byte* output,
                                              std::size_t bytes) {
  return std::make_unique<Exchange>(group, input, /*input_stride=*/0, output, bytes);
}

std::unique_ptr<Schedule> all_to_all_schedule(const Group& group, const std::byte* input, std::byte* output,
                                              std::size_t bytes) {
  return std::make_unique<Exchange>(group, input, /*input_stride=*/bytes, output, bytes);
}

std::unique_ptr<Schedule> broadcast_schedule(const Group& group, std::byte* data, std::size_t bytes, int root) {
  return std::make_unique<Broadcast>(group, data, bytes, root);
}

std::unique_ptr<Schedule> barrier_schedule(const Group& group) { return std::make_unique<Barrier>(group); }

}  // namespace perrin::comm
