#include "data/batch_loader.hpp"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "data/data_error.hpp"

namespace perrin::data {
namespace {

/// A plan that gives this many steps without a slice gives none at all; looking on would never end.
constexpr int kMostEmptySteps = 1'000'000;

/// What this thread had the storage read so far (getrusage counts in sectors).
std::uint64_t bytes_from_storage() {
  constexpr std::uint64_t kSectorBytes = 512;
  struct rusage usage {};
  ::getrusage(RUSAGE_THREAD, &usage);
  return static_cast<std::uint64_t>(usage.ru_inblock) * kSectorBytes;
}

}  // namespace

SliceSource slices_by_step(std::uint64_t first_step,
                           std::function<std::vector<Slice>(std::uint64_t step)> slices_of_step) {
  return [step = first_step, slices = std::vector<Slice>(), taken = std::size_t{0},
          slices_of_step = std::move(slices_of_step)]() mutable -> std::optional<Slice> {
    for (int empty = 0; taken == slices.size(); ++empty) {
      if (empty == kMostEmptySteps) throw std::invalid_argument("slices_by_step: no step has a slice");
      slices = slices_of_step(step++);
      taken = 0;
    }
    return slices[taken++];
  };
}

BatchLoader::BatchLoader(const Dataset& dataset, SampleOrder order, SliceSource slices, BatchLoaderOptions options)
    : dataset_(dataset), order_(order), slices_(std::move(slices)), options_(options), slots_(options.queue_batches) {
  if (order_.size() != dataset_.size()) throw std::invalid_argument("BatchLoader: order and dataset differ in size");
  if (options_.threads == 0 || options_.queue_batches == 0) {
    throw std::invalid_argument("BatchLoader: needs at least one thread and one batch in the queue");
  }
  try {
    for (std::size_t i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { run(); });
  } catch (...) {
    stop();
    throw;
  }
}

BatchLoader::~BatchLoader() { stop(); }

void BatchLoader::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  room_.notify_all();
}

void BatchLoader::run() {
  while (std::optional<Job> job = take_job()) {
    const std::uint64_t before = bytes_from_storage();
    Outcome outcome = outcome_of(*job);
    const std::uint64_t after = bytes_from_storage();
    const std::lock_guard lock(mutex_);
    storage_bytes_ += after - before;
    cold_ = after > before;
    stopping_ = stopping_ || std::holds_alternative<std::exception_ptr>(outcome);
    slot(job->ticket) = std::move(outcome);
    ready_.notify_all();
    room_.notify_all();
  }
}

BatchLoader::Outcome BatchLoader::outcome_of(Job& job) const {
  if (job.failure) return job.failure;
  try {
    const auto begun = std::chrono::steady_clock::now();
    load(*job.slice, job.batch, job.cold);
    if (options_.on_read) options_.on_read(*job.slice, begun, std::chrono::steady_clock::now());
    return std::move(job.batch);
  } catch (...) {
    return std::current_exception();
  }
}

std::optional<BatchLoader::Job> BatchLoader::take_job() {
  // One thread at a time, so that tickets and slices have the same order; not under mutex_, so that next() keeps its
  // deadline however long the source of slices takes.
  const std::lock_guard turn(turn_);
  Job job;
  {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [this] { return stopping_ || claimed_ < delivered_ + slots_.size(); });
    if (stopping_) return std::nullopt;
    job.ticket = claimed_++;
    job.cold = cold_;
    if (!spent_.empty()) {
      job.batch = std::move(spent_.back());
      spent_.pop_back();
    }
  }
  try {
    job.slice = slices_();
  } catch (...) {
    job.failure = std::current_exception();
    return job;
  }
  if (job.slice) return job;
  const std::lock_guard lock(mutex_);
  end_ = job.ticket;
  stopping_ = true;
  ready_.notify_all();
  return std::nullopt;
}

void BatchLoader::load(const Slice& slice, Batch& batch, bool cold) const {
  batch.positions.resize(slice.count);
  std::iota(batch.positions.begin(), batch.positions.end(), slice.position);
  batch.samples.resize(slice.count);
  order_.fill(slice.position, batch.samples);
  batch.labels.resize(slice.count);
  std::transform(batch.samples.begin(), batch.samples.end(), batch.labels.begin(),
                 [&](std::uint64_t sample) { return dataset_.label(sample); });
  if (!options_.images) return;
  if (cold) dataset_.read_ahead(batch.samples);  // the device works on all of them at once, not on one after the other
  batch.images.resize(slice.count * dataset_.shape().bytes());
  dataset_.gather(batch.samples, batch.images);
}

Batch BatchLoader::next(Batch spent) {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  // No more are kept than can be in use: one in each slot, and the caller's.
  if (spent.images.capacity() > 0 && spent_.size() <= slots_.size()) spent_.push_back(std::move(spent));
  const auto settled = [this] {
    return end_ == delivered_ || !std::holds_alternative<std::monostate>(slot(delivered_));
  };
  if (!settled()) {
    const bool in_time = ready_.wait_for(lock, options_.deadline, settled);
    stall_ += std::chrono::steady_clock::now() - start;
    if (!in_time) {
      throw DataError(dataset_.folder(),
                      fmt::format("no batch arrived within {} s; the storage does not answer: see the "
                                  "system log and the file server",
                                  std::chrono::duration<double>(options_.deadline).count()));
    }
  }
  if (end_ == delivered_) throw std::out_of_range("BatchLoader::next: after the last slice");
  Outcome& outcome = slot(delivered_);
  if (const auto* error = std::get_if<std::exception_ptr>(&outcome)) std::rethrow_exception(*error);
  Batch batch = std::move(std::get<Batch>(outcome));
  outcome = std::monostate();
  ++delivered_;
  lock.unlock();
  room_.notify_one();
  return batch;
}

std::chrono::duration<double> BatchLoader::stall_time() const {
  const std::lock_guard lock(mutex_);
  return stall_;
}

std::uint64_t BatchLoader::storage_bytes() const {
  const std::lock_guard lock(mutex_);
  return storage_bytes_;
}

Batch read_batch(const Dataset& dataset, std::uint64_t first, std::uint64_t count) {
  Batch batch;
  batch.images.resize(count * dataset.shape().bytes());
  dataset.read(first, count, batch.images);
  batch.samples.resize(count);
  std::iota(batch.samples.begin(), batch.samples.end(), first);
  batch.positions = batch.samples;
  for (const std::uint64_t sample : batch.samples) batch.labels.push_back(dataset.label(sample));
  return batch;
}

}  // namespace perrin::data
