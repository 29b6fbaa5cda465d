// What a dataset costs in memory and time, beside its images: of this process, by /proc.

#include <ctime>
#include <fstream>
#include <string>
#include <utility>

#include "data/batch_loader.hpp"
#include "data/prepare.hpp"
#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr double kMiB = 1 << 20;

/// Pages of this process that are in memory, with those of mapped files.
double resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    double kib = 0;
    if (word == "VmRSS:" && status >> kib) return kib * 1024;
  }
  throw std::runtime_error("/proc/self/status has no VmRSS");
}

/// A thousand class names, as ImageNet has.
class NamedSource : public PatternSource {
 public:
  using PatternSource::PatternSource;
  std::vector<std::string> class_names() const override {
    std::vector<std::string> names;
    for (int i = 0; i < 1000; ++i) names.push_back("class number " + std::to_string(i));
    return names;
  }
};

TEST(ManyShards, TwoThousandTakeLessThan64MiBAndTwoSeconds) {
  if (kSanitized) GTEST_SKIP() << "sanitizers multiply memory and time";
  const TemporaryFolder folder("/dev/shm");  // 2,000 times fsync of a disk take up to half a minute
  prepare(NamedSource(2000, {3, 8, 8}), {.output = folder / "set", .shard_images = 1});
  const double before = resident_bytes();
  const std::clock_t begun = std::clock();  // of the processor: the files are in the page cache, other programs are not
  const Dataset dataset(folder / "set");
  const double seconds = static_cast<double>(std::clock() - begun) / CLOCKS_PER_SEC;
  const double bytes = resident_bytes() - before;
  RecordProperty("seconds", std::to_string(seconds));
  RecordProperty("MiB", std::to_string(bytes / kMiB));
  EXPECT_EQ(dataset.manifest().shards.size(), 2000U);
  EXPECT_LT(bytes, 64 * kMiB);
  EXPECT_LT(seconds, 2.0);
}

TEST(Memory, IsFlatOverTenEpochs) {
  if (kSanitized) GTEST_SKIP() << "sanitizers keep what is freed";
  constexpr std::uint64_t kImages = 4096, kBatch = 96;  // batches straddle epochs
  constexpr ImageShape kShape{3, 32, 32};
  const TemporaryFolder folder;
  prepare(PatternSource(kImages, kShape), {.output = folder / "set", .shard_images = 1000});
  for (const ReadMethod method : {ReadMethod::mmap, ReadMethod::pread}) {
    const Dataset dataset(folder / "set", {.read = method});
    const auto slices = [position = std::uint64_t{0}]() mutable -> std::optional<Slice> {
      return Slice{std::exchange(position, position + kBatch), kBatch};
    };
    BatchLoader loader(dataset, SampleOrder(kImages, 1), slices, {.threads = 2});
    Batch batch;
    double after_two = 0;
    for (std::uint64_t position = 0; position < 10 * kImages; position += kBatch) {
      batch = loader.next(std::move(batch));
      ASSERT_EQ(batch.positions.front(), position);
      if (after_two == 0 && position >= 2 * kImages) after_two = resident_bytes();
    }
    EXPECT_LT(resident_bytes() - after_two, 1 * kMiB) << (method == ReadMethod::mmap ? "mmap" : "pread");
  }
}

}  // namespace
}  // namespace perrin::data::test
