#include "data/verify.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>

#include "data/data_error.hpp"
#include "data/dataset.hpp"
#include "data/manifest.hpp"
#include "data/sha256.hpp"
#include "data/shard_reader.hpp"

namespace perrin::data {
namespace {

constexpr std::uint64_t kPieceBytes = std::uint64_t{64} << 20;  // of images, for one thread at a time
constexpr std::uint64_t kBlockBytes = std::uint64_t{1} << 20;

using Damage = std::vector<std::string>;

/// One thread's work: the SHA-256 of a shard, or the images [first, first + count) of it.
struct Task {
  std::size_t shard = 0;
  bool whole_file = false;
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  Damage damage;
};

std::vector<Task> tasks_of(const Manifest& manifest) {
  std::vector<Task> tasks;
  const std::uint64_t piece = std::max<std::uint64_t>(1, kPieceBytes / manifest.shape.bytes());
  for (std::size_t shard = 0; shard < manifest.shards.size(); ++shard) {
    // The longest first, so that the threads end together.
    tasks.push_back({.shard = shard, .whole_file = true, .damage = {}});
    const std::uint64_t n = manifest.shards[shard].n;
    for (std::uint64_t first = 0; first < n; first += piece)
      tasks.push_back({.shard = shard, .first = first, .count = std::min(piece, n - first), .damage = {}});
  }
  return tasks;
}

/// The message of what an action throws.
template <class Action>
std::optional<std::string> damage_of(const Action& action) {
  try {
    action();
  } catch (const DataError& error) {
    return error.what();
  }
  return std::nullopt;
}

Damage verify_file(const std::filesystem::path& path, const ShardEntry& entry) {
  Damage damage;
  const auto unreadable = damage_of([&] {
    const std::string found = sha256_of_file(path);
    if (found != entry.sha256)
      damage.push_back(
          DataError(path, fmt::format("has the SHA-256 {}, {} by the manifest; restore it", found, entry.sha256))
              .what());
  });
  if (unreadable) damage.push_back(*unreadable);
  return damage;
}

/// Blocks are read whole; the images of one that is not sound are read one by one, to name each that is damaged.
Damage verify_images(const ShardReader& shard, std::uint64_t first, std::uint64_t count) {
  Damage damage;
  const std::size_t image_bytes = shard.shape().bytes();
  const std::uint64_t block = std::max<std::uint64_t>(1, kBlockBytes / image_bytes);
  std::vector<std::uint8_t> pixels(std::min(block, count) * image_bytes);
  for (const std::uint64_t end = first + count; first < end; first += block) {
    const std::uint64_t here = std::min(block, end - first);
    const auto read = [&](std::uint64_t image, std::uint64_t images) {
      return damage_of([&] { shard.read(image, images, std::span(pixels).first(images * image_bytes)); });
    };
    if (!read(first, here)) continue;
    for (std::uint64_t image = first; image < first + here; ++image) {
      if (const auto what = read(image, 1)) damage.push_back(*what);
    }
  }
  return damage;
}

}  // namespace

VerifyOutcome verify_dataset(const std::filesystem::path& folder, std::size_t threads, const VerifyProgress& progress) {
  if (threads == 0) throw std::invalid_argument("verify_dataset: needs at least one thread");
  const Manifest manifest = read_manifest(folder);
  VerifyOutcome outcome{.images = manifest.n, .damage = {}};
  std::vector<std::optional<ShardReader>> shards(manifest.shards.size());
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const ShardEntry& entry = manifest.shards[i];
    outcome.bytes += entry.bytes;
    const auto unfit = damage_of(
        [&] { shards[i].emplace(folder / entry.path, expected_of(entry, manifest.shape), ReadMethod::pread); });
    if (unfit) outcome.damage.push_back(*unfit);
    if (!unfit && (shards[i]->size() != entry.n || shards[i]->shape() != manifest.shape)) {
      outcome.damage.push_back(DataError(folder / entry.path, "holds other images than the manifest says").what());
      shards[i].reset();
    }
  }

  std::vector<Task> tasks = tasks_of(manifest);
  std::uint64_t total = 0, done = 0;
  const auto bytes_of = [&](const Task& task) {
    return task.whole_file ? manifest.shards[task.shard].bytes : task.count * manifest.shape.bytes();
  };
  for (const Task& task : tasks) total += bytes_of(task);
  std::mutex mutex;
  std::exception_ptr failure;
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    try {
      for (std::size_t i = next++; i < tasks.size(); i = next++) {
        Task& task = tasks[i];
        const auto& shard = shards[task.shard];
        if (shard)
          task.damage = task.whole_file ? verify_file(shard->path(), manifest.shards[task.shard])
                                        : verify_images(*shard, task.first, task.count);
        const std::lock_guard lock(mutex);
        done += bytes_of(task);
        if (progress) progress(done, total);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> workers;
    for (std::size_t i = 0; i < threads; ++i) workers.emplace_back(work);
  }
  if (failure) std::rethrow_exception(failure);
  for (const Task& task : tasks) outcome.damage.insert(outcome.damage.end(), task.damage.begin(), task.damage.end());
  // What is sound file by file may still not belong together.
  if (outcome.damage.empty()) {
    if (const auto apart = damage_of([&] { const Dataset dataset(folder); })) outcome.damage.push_back(*apart);
  }
  return outcome;
}

}  // namespace perrin::data
