#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <variant>
#include <vector>

#include "data/dataset.hpp"
#include "data/sample_order.hpp"

namespace perrin::data {

/// Positions [position, position + count) of the sample stream: one micro-batch, or a rank's share of it.
struct Slice {
  std::uint64_t position = 0;
  std::uint64_t count = 0;

  friend bool operator==(const Slice&, const Slice&) = default;
};

/// Images with all that randomness and bookkeeping are keyed by.
struct Batch {
  std::vector<std::uint8_t> images;      // [b, C, H, W]; empty where BatchLoaderOptions::images is false
  std::vector<std::int32_t> labels;      // [b], -1: none
  std::vector<std::uint64_t> positions;  // [b], in the stream
  std::vector<std::uint64_t> samples;    // [b], index in the dataset

  std::size_t size() const noexcept { return labels.size(); }
};

/// Gives the slices to load, one a call, in the order in which next() delivers them; nothing: the end.
/// Called from the loader's threads, one call at a time.
using SliceSource = std::function<std::optional<Slice>()>;

/// Slices of step first_step, first_step + 1, ... without end, as slices_of_step says for each; steps without any are
/// passed over. The source throws std::invalid_argument if no step has one.
SliceSource slices_by_step(std::uint64_t first_step,
                           std::function<std::vector<Slice>(std::uint64_t step)> slices_of_step);

struct BatchLoaderOptions {
  /// Batches that are ready or being read ahead of the one in use.
  std::size_t queue_batches = 4;
  std::size_t threads = 1;
  /// false: whoever uses the batches has the images already, and needs to know which.
  bool images = true;
  /// How long next() waits before it takes the storage for dead.
  std::chrono::milliseconds deadline = std::chrono::minutes(2);
  /// Told of every batch once it is read: from when to when. Called from the loader's threads; empty: nobody is told.
  std::function<void(const Slice& slice, std::chrono::steady_clock::time_point begun,
                     std::chrono::steady_clock::time_point ended)>
      on_read = {};
};

/// Reads batches ahead of their use, in its own threads, in the order of the slices. Knows nothing of ranks: each
/// hands in its own slices. What position p means is the SampleOrder's business alone, so that a resumed run goes on
/// by handing in slices from where it stopped.
class BatchLoader {
 public:
  /// @param dataset  must outlive the loader
  /// @throws std::invalid_argument if order and dataset differ in size, or for zero threads or an empty queue
  BatchLoader(const Dataset& dataset, SampleOrder order, SliceSource slices, BatchLoaderOptions options = {});
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;
  /// Ends the threads; at most the batches being read are waited for.
  ~BatchLoader();

  /// The batch of the next slice.
  /// @param spent  a batch that is not needed any more; its memory is filled again. Without, each batch is allocated
  ///               and its pages are faulted in, which takes longer than to read it
  /// @throws what reading it threw, now and at every later call; DataError after the deadline; std::out_of_range after
  ///         the last slice
  Batch next(Batch spent = {});

  /// Time that next() spent waiting: the training loop was faster than the storage.
  std::chrono::duration<double> stall_time() const;
  /// Bytes that came from the storage while batches were read, not from the page cache; pages are read whole and ahead,
  /// so that they may be more than those of the images.
  std::uint64_t storage_bytes() const;

 private:
  /// What became of a slice: nothing yet, its batch, or what went wrong.
  using Outcome = std::variant<std::monostate, Batch, std::exception_ptr>;

  struct Job {
    std::uint64_t ticket = 0;  // 0, 1, ... in the order of delivery
    std::optional<Slice> slice;
    std::exception_ptr failure;  // of the source of slices, in place of a slice
    Batch batch;                 // memory to fill
    bool cold = false;           // the batch before came from the storage, at least in part
  };

  void run();
  std::optional<Job> take_job();
  Outcome outcome_of(Job& job) const;
  /// @param cold whether the storage is being read
  void load(const Slice& slice, Batch& batch, bool cold) const;
  void stop();
  Outcome& slot(std::uint64_t ticket) { return slots_[ticket % slots_.size()]; }

  const Dataset& dataset_;
  const SampleOrder order_;
  const SliceSource slices_;
  const BatchLoaderOptions options_;

  std::mutex turn_;  // held while the next slice is taken; locked before mutex_
  mutable std::mutex mutex_;
  std::condition_variable room_;      // a slot became free, or the end
  std::condition_variable ready_;     // a slot was filled, or the end
  std::vector<Outcome> slots_;        // of tickets [delivered_, delivered_ + queue)
  std::vector<Batch> spent_;          // given back by next()
  std::uint64_t claimed_ = 0;         // tickets given to threads
  std::uint64_t delivered_ = 0;       // tickets taken by next()
  std::optional<std::uint64_t> end_;  // first ticket without a slice
  bool stopping_ = false;             // no further tickets
  std::chrono::duration<double> stall_{0};
  std::uint64_t storage_bytes_ = 0;
  bool cold_ = false;

  std::vector<std::jthread> threads_;
};

/// Images [first, first + count) in the order of the dataset, for evaluation: positions are sample indices.
Batch read_batch(const Dataset& dataset, std::uint64_t first, std::uint64_t count);

}  // namespace perrin::data
