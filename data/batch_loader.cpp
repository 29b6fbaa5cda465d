#include "data/batch_loader.hpp"

#include <fmt/format.h>

#include <numeric>
#include <stdexcept>
#include <utility>

#include "data/data_error.hpp"

namespace perrin::data {
namespace {

/// A plan that gives this many steps without a slice gives none at all; looking on would never end.
constexpr int kMostEmptySteps = 1'000'000;

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
  while (const std::optional<Job> job = take_job()) {
    Outcome outcome = job->failure;
    try {
      const auto begun = std::chrono::steady_clock::now();
      if (job->slice) outcome = load(*job->slice);
      if (job->slice && options_.on_read) options_.on_read(*job->slice, begun, std::chrono::steady_clock::now());
    } catch (...) {
      outcome = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    stopping_ = stopping_ || std::holds_alternative<std::exception_ptr>(outcome);
    slot(job->ticket) = std::move(outcome);
    ready_.notify_all();
    room_.notify_all();
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

Batch BatchLoader::load(const Slice& slice) const {
  Batch batch;
  batch.positions.resize(slice.count);
  std::iota(batch.positions.begin(), batch.positions.end(), slice.position);
  batch.samples.resize(slice.count);
  order_.fill(slice.position, batch.samples);
  batch.labels.reserve(slice.count);
  const std::size_t image_bytes = dataset_.shape().bytes();
  batch.images.resize(slice.count * image_bytes);
  std::span<std::uint8_t> pixels(batch.images);
  for (const std::uint64_t sample : batch.samples) {
    batch.labels.push_back(dataset_.label(sample));
    dataset_.read(sample, pixels.first(image_bytes));
    pixels = pixels.subspan(image_bytes);
  }
  return batch;
}

Batch BatchLoader::next() {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
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
