#include "data/batch_loader.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "data/prepare.hpp"
#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

constexpr ImageShape kShape{1, 4, 6};
constexpr std::uint64_t kImages = 100;
constexpr std::uint64_t kSeed = 3;

/// Slices of equal size from a position on, without end.
SliceSource slices_from(std::uint64_t position, std::uint64_t count) {
  return [position, count]() mutable -> std::optional<Slice> {
    const Slice slice{position, count};
    position += count;
    return slice;
  };
}

class Loader : public ::testing::Test {
 protected:
  void expect_right(const Batch& batch, std::uint64_t position, std::uint64_t count) const {
    ASSERT_EQ(batch.size(), count);
    ASSERT_EQ(batch.images.size(), count * kShape.bytes());
    std::vector<std::uint8_t> expected(kShape.bytes());
    for (std::uint64_t i = 0; i < count; ++i) {
      EXPECT_EQ(batch.positions[i], position + i);
      const std::uint64_t sample = order_.at(position + i);
      EXPECT_EQ(batch.samples[i], sample);
      EXPECT_EQ(batch.labels[i], dataset_.label(sample));
      source_.read(dataset_.source_id(sample), expected);
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(),
                             batch.images.begin() + static_cast<std::ptrdiff_t>(i * kShape.bytes())));
    }
  }

  const PatternSource source_{kImages, kShape};
  const TemporaryFolder folder_;
  const fs::path path_ = folder_ / "set";
  const Manifest manifest_ = prepare(source_, {.output = path_, .shard_images = 30}).manifest;
  const Dataset dataset_{path_};
  const SampleOrder order_{kImages, kSeed};
};

TEST_F(Loader, DeliversEverySliceInOrderAcrossEpochs) {
  for (const std::size_t threads : {1u, 2u, 4u}) {
    for (const std::size_t queue : {1u, 2u, 7u}) {
      BatchLoader loader(dataset_, order_, slices_from(0, 7), {.queue_batches = queue, .threads = threads});
      for (std::uint64_t step = 0; step < 60; ++step) expect_right(loader.next(), step * 7, 7);
    }
  }
}

TEST_F(Loader, GoesOnInTheMiddleAsIfItHadReadUpToThere) {
  BatchLoader straight(dataset_, order_, slices_from(0, 9));
  for (int i = 0; i < 20; ++i) straight.next();
  BatchLoader resumed(dataset_, order_, slices_from(20 * 9, 9));
  for (int i = 0; i < 20; ++i) {
    const Batch a = straight.next();
    const Batch b = resumed.next();
    EXPECT_EQ(a.images, b.images);
    EXPECT_EQ(a.labels, b.labels);
    EXPECT_EQ(a.positions, b.positions);
    EXPECT_EQ(a.samples, b.samples);
  }
}

TEST_F(Loader, AnyNumberOfRanksSeesTheSameGlobalBatchesAndEverySampleOncePerEpoch) {
  constexpr std::uint64_t kGlobalBatch = 24;
  constexpr std::uint64_t kSteps = 25;  // 600 positions: six epochs, their borders inside batches
  for (const std::uint64_t ranks : {1u, 2u, 3u, 4u, 8u}) {
    std::vector<std::unique_ptr<BatchLoader>> loaders;
    for (std::uint64_t rank = 0; rank < ranks; ++rank) {
      const auto slices_of_step = [=](std::uint64_t step) {
        const std::uint64_t first = rank * kGlobalBatch / ranks;
        return std::vector<Slice>{{step * kGlobalBatch + first, (rank + 1) * kGlobalBatch / ranks - first}};
      };
      loaders.push_back(std::make_unique<BatchLoader>(dataset_, order_, slices_by_step(0, slices_of_step)));
    }
    std::vector<int> visits(kImages);
    std::vector<std::uint64_t> stream;
    for (std::uint64_t step = 0; step < kSteps; ++step) {
      for (auto& loader : loaders) {
        for (const std::uint64_t sample : loader->next().samples) stream.push_back(sample);
      }
    }
    ASSERT_EQ(stream.size(), 6 * kImages);
    for (std::uint64_t p = 0; p < stream.size(); ++p) EXPECT_EQ(stream[p], order_.at(p));
    for (std::uint64_t epoch = 0; epoch < 6; ++epoch) {
      const std::set<std::uint64_t> samples(stream.begin() + static_cast<std::ptrdiff_t>(epoch * kImages),
                                            stream.begin() + static_cast<std::ptrdiff_t>((epoch + 1) * kImages));
      EXPECT_EQ(samples.size(), kImages);
    }
  }
}

TEST_F(Loader, TellsWhenItReadWhat) {
  std::mutex mutex;
  std::vector<Slice> told;
  BatchLoaderOptions options;
  options.threads = 2;
  options.on_read = [&](const Slice& slice, auto begun, auto ended) {
    const std::lock_guard lock(mutex);
    EXPECT_LE(begun, ended);
    EXPECT_LE(ended, std::chrono::steady_clock::now());
    told.push_back(slice);
  };
  {
    BatchLoader loader(dataset_, order_, slices_from(0, 5), options);
    for (int i = 0; i < 6; ++i) loader.next();
  }
  std::sort(told.begin(), told.end(), [](const Slice& a, const Slice& b) { return a.position < b.position; });
  ASSERT_GE(told.size(), 6U);
  for (std::uint64_t i = 0; i < told.size(); ++i) EXPECT_EQ(told[i], (Slice{5 * i, 5}));
}

TEST_F(Loader, StepsMayHaveSeveralSlicesOrNone) {
  const auto slices_of_step = [](std::uint64_t step) -> std::vector<Slice> {
    if (step == 11) return {};
    return {{step * 10, 3}, {step * 10 + 3, 0}, {step * 10 + 3, 2}};
  };
  BatchLoader loader(dataset_, order_, slices_by_step(10, slices_of_step));
  expect_right(loader.next(), 100, 3);
  expect_right(loader.next(), 103, 0);
  expect_right(loader.next(), 103, 2);
  expect_right(loader.next(), 120, 3);
}

TEST_F(Loader, APlanWithoutAnySliceIsAnErrorNotAHang) {
  BatchLoader loader(dataset_, order_, slices_by_step(0, [](std::uint64_t) { return std::vector<Slice>(); }));
  EXPECT_THROW(loader.next(), std::invalid_argument);
}

TEST_F(Loader, EndsWithItsSlices) {
  const auto two = [left = 2]() mutable -> std::optional<Slice> {
    if (left-- <= 0) return std::nullopt;
    return Slice{0, 5};
  };
  for (const std::size_t threads : {1u, 3u}) {
    BatchLoader loader(dataset_, order_, two, {.threads = threads});
    EXPECT_EQ(loader.next().size(), 5u);
    EXPECT_EQ(loader.next().size(), 5u);
    EXPECT_THROW(loader.next(), std::out_of_range);
    EXPECT_THROW(loader.next(), std::out_of_range);
  }
}

TEST_F(Loader, AnErrorOfAThreadArrivesInItsPlaceAndStays) {
  // The sample at position 40 is damaged after the dataset was opened.
  const std::uint64_t sample = order_.at(40);
  const fs::path shard = path_ / manifest_.shards[sample / 30].path;
  const std::uint64_t offset = ShardReader(shard).layout().images_offset + sample % 30 * kShape.bytes();
  flip_bit(shard, offset + 3);
  for (const std::size_t threads : {1u, 4u}) {
    BatchLoader loader(dataset_, order_, slices_from(0, 10), {.queue_batches = 8, .threads = threads});
    for (std::uint64_t step = 0; step < 4; ++step) expect_right(loader.next(), step * 10, 10);
    for (int again = 0; again < 2; ++again) {
      EXPECT_THAT(data_error_of([&] { loader.next(); }),
                  AllOf(HasSubstr(shard.filename().string()),
                        HasSubstr("image " + std::to_string(sample % 30) + " fails its checksum")));
    }
  }
}

TEST_F(Loader, AnErrorOfTheSliceSourceArrivesToo) {
  const auto broken = [calls = 0]() mutable -> std::optional<Slice> {
    if (++calls == 3) throw std::runtime_error("no plan");
    return Slice{0, 4};
  };
  BatchLoader loader(dataset_, order_, broken, {.threads = 2});
  loader.next();
  loader.next();
  EXPECT_THROW(loader.next(), std::runtime_error);
}

TEST_F(Loader, StopsAtOnceWhileItsQueueIsFull) {
  for (const std::size_t threads : {1u, 4u}) {
    const auto start = std::chrono::steady_clock::now();
    {
      BatchLoader loader(dataset_, order_, slices_from(0, 10), {.queue_batches = 2, .threads = threads});
      loader.next();
      std::this_thread::sleep_for(20ms);  // the queue fills and the threads wait for room
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  }
}

TEST_F(Loader, NeverReadsFurtherAheadThanItsQueue) {
  const auto asked = std::make_shared<std::atomic<int>>(0);
  const auto counted = [asked]() -> std::optional<Slice> {
    ++*asked;
    return Slice{0, 1};
  };
  BatchLoader loader(dataset_, order_, counted, {.queue_batches = 3, .threads = 2});
  const auto asks_until = [&](int count) {
    for (const auto until = std::chrono::steady_clock::now() + 10s;
         *asked < count && std::chrono::steady_clock::now() < until;)
      std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(20ms);  // for what must not come
    return asked->load();
  };
  EXPECT_EQ(asks_until(3), 3);
  loader.next();
  EXPECT_EQ(asks_until(4), 4);
}

TEST_F(Loader, CountsTheTimeItKeptOthersWaiting) {
  const auto slow = [calls = 0]() mutable -> std::optional<Slice> {
    if (calls++ > 0) std::this_thread::sleep_for(50ms);
    return Slice{0, 1};
  };
  BatchLoader loader(dataset_, order_, slow, {.queue_batches = 1});
  loader.next();
  loader.next();
  EXPECT_GE(loader.stall_time(), 40ms);
}

TEST_F(Loader, FillsTheMemoryOfBatchesThatAreGivenBack) {
  BatchLoader loader(dataset_, order_, slices_from(0, 10), {.queue_batches = 2});
  std::set<const std::uint8_t*> buffers;
  Batch batch;
  for (std::uint64_t step = 0; step < 50; ++step) {
    batch = loader.next(std::move(batch));
    expect_right(batch, step * 10, 10);
    buffers.insert(batch.images.data());
  }
  EXPECT_LE(buffers.size(), 4U);  // two in the queue, one in use, one on its way back
}

TEST_F(Loader, GivenBackMemoryFitsSlicesOfAnySize) {
  const auto growing = [count = std::uint64_t{0}]() mutable -> std::optional<Slice> { return Slice{0, ++count % 5}; };
  BatchLoader loader(dataset_, order_, growing, {.queue_batches = 1});
  Batch batch;
  for (std::uint64_t step = 1; step < 12; ++step) {
    batch = loader.next(std::move(batch));
    expect_right(batch, 0, step % 5);
  }
}

TEST_F(Loader, CountsWhatCameFromTheStorage) {
  struct statfs system {};
  ASSERT_EQ(::statfs(path_.c_str(), &system), 0);
  if (system.f_type == TMPFS_MAGIC) GTEST_SKIP() << "the temporary folder is memory; set TMPDIR to a folder on a disk";
  const Dataset dataset(path_, {.read = ReadMethod::pread});  // what is mapped would stay in the page cache
  for (const ShardEntry& shard : manifest_.shards) {
    const File file = File::open_for_reading(path_ / shard.path);
    ASSERT_EQ(::posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_DONTNEED), 0);
  }
  const auto bytes_of_an_epoch = [&] {
    int left = 1;
    BatchLoader loader(dataset, order_, [&]() -> std::optional<Slice> {
      return left-- > 0 ? std::optional(Slice{0, kImages}) : std::nullopt;
    });
    loader.next();
    return loader.storage_bytes();
  };
  EXPECT_GE(bytes_of_an_epoch(), kImages * kShape.bytes());
  EXPECT_EQ(bytes_of_an_epoch(), 0U);
}

TEST_F(Loader, DeadStorageIsAnErrorNotAHang) {
  const auto stuck = []() -> std::optional<Slice> {
    std::this_thread::sleep_for(500ms);
    return Slice{0, 1};
  };
  BatchLoader loader(dataset_, order_, stuck, {.deadline = 50ms});
  EXPECT_THAT(data_error_of([&] { loader.next(); }), HasSubstr("no batch arrived within 0.05 s"));
}

TEST_F(Loader, RefusesACallersMistakes) {
  EXPECT_THROW(BatchLoader(dataset_, SampleOrder(99, 1), slices_from(0, 1)), std::invalid_argument);
  EXPECT_THROW(BatchLoader(dataset_, order_, slices_from(0, 1), {.threads = 0}), std::invalid_argument);
  EXPECT_THROW(BatchLoader(dataset_, order_, slices_from(0, 1), {.queue_batches = 0}), std::invalid_argument);
}

TEST_F(Loader, EvaluationReadsRangesInTheOrderOfTheDataSet) {
  const Batch batch = read_batch(dataset_, 25, 10);
  ASSERT_EQ(batch.size(), 10u);
  std::vector<std::uint8_t> expected(10 * kShape.bytes());
  dataset_.read(25, 10, expected);
  EXPECT_EQ(batch.images, expected);
  for (std::uint64_t i = 0; i < 10; ++i) {
    EXPECT_EQ(batch.samples[i], 25 + i);
    EXPECT_EQ(batch.positions[i], 25 + i);
    EXPECT_EQ(batch.labels[i], dataset_.label(25 + i));
  }
  EXPECT_THROW(read_batch(dataset_, 95, 6), std::out_of_range);
}

}  // namespace
}  // namespace perrin::data::test
