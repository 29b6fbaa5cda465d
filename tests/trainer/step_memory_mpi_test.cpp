// A step of training asks memory for the same as the step before: nothing grows, and nothing is made ready late.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <tuple>
#include <vector>

#include "tests/support/world.hpp"
#include "trainer/synthetic_steps.hpp"

namespace perrin::trainer {
namespace {

/// What LibTorch's allocator was asked for.
struct Usage {
  std::int64_t allocations = 0, bytes = 0;
  /// Most bytes held at once beyond those held at the beginning, and those still held at the end.
  std::int64_t peak = 0, kept = 0;
};

/// Stands in for LibTorch's own, and counts. What was allocated before is none of its business.
class CountingAllocator final : public c10::Allocator {
 public:
  CountingAllocator() : former_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this); }
  ~CountingAllocator() override { c10::SetCPUAllocator(former_); }
  CountingAllocator(const CountingAllocator&) = delete;
  CountingAllocator& operator=(const CountingAllocator&) = delete;

  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &free_block, c10::Device(c10::kCPU)};
    const auto count = static_cast<std::int64_t>(bytes);
    const std::size_t whole = (sizeof(Header) + bytes + kAlignment - 1) / kAlignment * kAlignment;
    auto* const header = new (std::aligned_alloc(kAlignment, whole)) Header{this, count};
    ++allocations_;
    bytes_ += count;
    const std::int64_t held = held_ += count;
    for (std::int64_t peak = peak_; held > peak && !peak_.compare_exchange_weak(peak, held);) {
    }
    void* const data = header + 1;  // oneDNN wants it to be the context too
    return {data, data, &free_block, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  /// Of what has happened since the last call.
  Usage take() {
    const std::int64_t held = held_;
    const Usage usage{allocations_.exchange(0), bytes_.exchange(0), peak_ - begun_, held - begun_};
    begun_ = held;
    peak_ = held;
    return usage;
  }

 private:
  static constexpr std::size_t kAlignment = 64;  // as c10 aligns
  struct alignas(kAlignment) Header {
    CountingAllocator* owner;
    std::int64_t bytes;
  };
  static void free_block(void* data) {
    if (data == nullptr) return;
    auto* const header = static_cast<Header*>(data) - 1;
    header->owner->held_ -= header->bytes;
    std::free(header);
  }

  c10::Allocator* former_;
  std::atomic<std::int64_t> allocations_{0}, bytes_{0}, held_{0}, peak_{0};
  std::int64_t begun_ = 0;
};

class StepMemory : public testing::TestWithParam<std::tuple<bool, int>> {};

TEST_P(StepMemory, IsTheSameInEveryStepAfterTheThird) {
  comm::World& world = perrin::test::world();
  const auto [sharded, threads] = GetParam();
  at::set_num_threads(threads);
  Config config;
  config.model.block_out_channels = {16, 32};
  config.model.layers_per_block = 1;
  config.model.attention_resolutions = {4};
  config.model.norm_num_groups = 4;
  config.model.dropout = 0.1;
  config.train.batch_size = 32;
  config.train.micro_batch = threads == 1 ? 4 : 0;  // several threads: parts of the whole share
  config.ema.decays = {0.9, 0.99};
  config.optimizer.shard = sharded;
  CountingAllocator allocator;  // outlives what it gave
  SyntheticSteps steps(config, {.channels = 3, .height = 8, .width = 8}, world, at::kCPU);
  steps.connect(world.gradients(), /*overlap=*/true);
  ActivityClock clock;
  std::vector<Usage> usage;
  for (int step = 0; step < 8; ++step) {
    if (step == 0) allocator.take();  // what was made before the first step
    steps.step(clock);
    usage.push_back(allocator.take());
  }
  const Usage& steady = usage[3];
  EXPECT_GT(steady.allocations, 100);
  EXPECT_EQ(steady.kept, 0);
  for (std::size_t step = 4; step < usage.size(); ++step) {
    EXPECT_EQ(usage[step].allocations, steady.allocations) << step;
    EXPECT_EQ(usage[step].bytes, steady.bytes) << step;
    // Parts that run at the same time hold more or less at once.
    if (threads == 1) {
      EXPECT_EQ(usage[step].peak, steady.peak) << step;
    }
    EXPECT_EQ(usage[step].kept, 0) << step;
  }
  at::set_num_threads(1);
}

INSTANTIATE_TEST_SUITE_P(ShardedByThreads, StepMemory, testing::Combine(testing::Bool(), testing::Values(1, 2)));

}  // namespace
}  // namespace perrin::trainer
