// Order between a collective and the streams around it, and several communicators at once.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "comm/cuda_handles.hpp"
#include "tests/comm/elements.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;
using test::Elements;

constexpr std::size_t kCount = 10'000;

void synchronize(const CudaStream& stream) {
  require_cuda(cudaStreamSynchronize(stream.get()), "cudaStreamSynchronize");
}

void fill(Elements& elements, std::int64_t value) {
  for (std::size_t i = 0; i < elements.count(); ++i) elements.set(i, value);
}

/// Host work in the order of a stream.
class HostTask {
 public:
  HostTask(const CudaStream& stream, std::function<void()> work) : work_(std::move(work)) {
    const auto call = [](void* self) { static_cast<HostTask*>(self)->work_(); };
    require_cuda(cudaLaunchHostFunc(stream.get(), call, this), "cudaLaunchHostFunc");
  }
  HostTask(const HostTask&) = delete;
  HostTask& operator=(const HostTask&) = delete;

 private:
  std::function<void()> work_;
};

class Streams : public testing::Test {
 protected:
  void SetUp() override {
    const World& world = perrin::test::world();
    make_device_current(device_of_rank(device_count(), world.local_rank()).value());
    communicator_ = test::make_communicator({});
    compute_.emplace();
  }

  Communicator& comm() { return *communicator_; }
  const CudaStream& compute() { return *compute_; }

 private:
  std::unique_ptr<Communicator> communicator_;
  std::optional<CudaStream> compute_;
};

TEST_F(Streams, CollectiveWaitsForWhatTheComputeStreamHoldsAtTheCall) {
  for (int round = 0; round < 10; ++round) {
    Elements data(DataType::float32, kCount);
    const HostTask producer(compute(), [&] {
      std::this_thread::sleep_for(10ms);
      fill(data, 1);
    });
    comm().all_reduce(data.data(), kCount, DataType::float32, ReduceOp::sum, compute().get()).wait();
    EXPECT_THAT(data.values(), testing::Each(comm().size()));
    synchronize(compute());
  }
}

TEST_F(Streams, JoinOrdersLaterWorkOfTheComputeStreamAfterTheCollective) {
  for (int round = 0; round < 10; ++round) {
    Elements data(DataType::float32, kCount);
    std::vector<std::int64_t> seen;
    fill(data, 1);
    Work work = comm().all_reduce(data.data(), kCount, DataType::float32, ReduceOp::sum, compute().get());
    work.join(compute().get());
    EXPECT_TRUE(work.done());
    const HostTask consumer(compute(), [&] { seen = data.values(); });
    synchronize(compute());
    EXPECT_THAT(seen, testing::Each(comm().size()));
  }
}

TEST_F(Streams, HostIsFreeWhileTheCollectiveWaits) {
  std::atomic<bool> go{false};
  Elements data(DataType::float32, kCount);
  fill(data, 1);
  const HostTask gate(compute(), [&] {
    while (!go) std::this_thread::sleep_for(1ms);
  });
  Work work = comm().all_reduce(data.data(), kCount, DataType::float32, ReduceOp::sum, compute().get());
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(work.done());
  go = true;
  work.wait();
  EXPECT_THAT(data.values(), testing::Each(comm().size()));
  synchronize(compute());
}

TEST_F(Streams, ManyCollectivesUnderWayEndInTheirOrder) {
  constexpr int kBuckets = 16;
  std::vector<Elements> buckets;
  for (int i = 0; i < kBuckets; ++i) fill(buckets.emplace_back(DataType::float32, kCount), i);
  std::vector<Work> works;
  for (Elements& bucket : buckets)
    works.push_back(comm().all_reduce(bucket.data(), kCount, DataType::float32, ReduceOp::sum, compute().get()));
  works.back().wait();
  for (int i = 0; i < kBuckets; ++i) {
    EXPECT_TRUE(works[static_cast<std::size_t>(i)].done()) << "bucket " << i;
    EXPECT_THAT(buckets[static_cast<std::size_t>(i)].values(), testing::Each(i * comm().size()));
  }
}

TEST_F(Streams, CommunicatorsOfSeveralThreadsDoNotMix) {
  constexpr int kThreads = 3;
  constexpr int kRounds = 20;
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int t = 0; t < kThreads; ++t) communicators.push_back(test::make_communicator({}));
  std::vector<std::int64_t> wrong(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Communicator& own = *communicators[static_cast<std::size_t>(t)];
      Elements data(DataType::int64, kCount);
      for (int round = 0; round < kRounds; ++round) {
        fill(data, 100 * t + round);
        own.all_reduce(data.data(), kCount, DataType::int64, ReduceOp::sum).wait();
        for (const std::int64_t value : data.values())
          wrong[static_cast<std::size_t>(t)] += value != own.size() * (100 * t + round);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

}  // namespace
}  // namespace perrin::comm
