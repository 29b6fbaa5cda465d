// Every collective with more bytes than an int counts. Elements are single bytes, so the counts pass that bound too.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <memory>
#include <string>

#include "tests/comm/backend.hpp"
#include "tests/support/world.hpp"

namespace perrin::comm {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kBytes = static_cast<std::size_t>(std::numeric_limits<int>::max()) + 4097;
constexpr std::chrono::seconds kTime{80};

/// The same answer on all ranks.
std::size_t available_memory_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  std::int64_t kilobytes = 0;
  while (file >> word && word != "MemAvailable:") {
  }
  file >> kilobytes;
  return static_cast<std::size_t>(perrin::test::world().control().all_reduce_value(kilobytes, ReduceOp::min)) * 1024;
}

/// Of rank r at index i: not the same in two parts of any buffer, and so small that the ranks' sum fits a byte.
std::uint8_t element_of(int rank, std::size_t i) {
  return static_cast<std::uint8_t>(((i >> 20) * 7 + i * 3 + static_cast<std::size_t>(rank) * 13) & 31);
}

class Large : public testing::Test {
 protected:
  /// Skips where the memory does not hold so many buffers of kBytes on every rank, and over NCCL as many copies of
  /// what is sent and received, which NCCL on the host makes.
  void need(std::size_t buffers, std::size_t copies) {
    communicator_ = test::make_communicator({.piece_bytes = std::numeric_limits<int>::max()});
    if (comm().backend() == "nccl") buffers += copies;
    const std::size_t bytes = parts() * buffers * kBytes + (std::size_t{2} << 30);
    if (available_memory_bytes() < bytes)
      GTEST_SKIP() << fmt::format("needs {:.0f} GB of available memory", static_cast<double>(bytes) / 1e9);
  }

  Communicator& comm() { return *communicator_; }
  static std::size_t parts() { return static_cast<std::size_t>(perrin::test::world().size()); }
  std::size_t rank() { return static_cast<std::size_t>(comm().rank()); }
  std::size_t part() { return kBytes / parts(); }

  static std::shared_ptr<std::byte> filled(std::size_t bytes) {
    std::shared_ptr<std::byte> memory = test::allocate(bytes);
    std::byte* const data = memory.get();  // read once: a byte that is written might be the pointer's
    const int rank = perrin::test::world().rank();
    for (std::size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(element_of(rank, i));
    return memory;
  }
  template <typename Expected>
  static void expect(const std::byte* found, std::size_t bytes, const Expected& expected) {
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < bytes; ++i) wrong += found[i] != static_cast<std::byte>(expected(i));
    EXPECT_EQ(wrong, 0U) << "of " << bytes;
  }
  static std::uint8_t sum_at(int ranks, std::size_t i) {
    std::uint8_t sum = 0;
    for (int r = 0; r < ranks; ++r) sum = static_cast<std::uint8_t>(sum + element_of(r, i));
    return sum;
  }

 private:
  std::unique_ptr<Communicator> communicator_;
};

TEST_F(Large, AllReduce) {
  need(1, 2 * parts() - 1);
  if (IsSkipped()) return;
  const auto data = filled(kBytes);
  comm().all_reduce(data.get(), kBytes, DataType::uint8, ReduceOp::sum).wait(kTime);
  expect(data.get(), kBytes, [ranks = comm().size()](std::size_t i) { return sum_at(ranks, i); });
}

TEST_F(Large, ReduceScatter) {
  need(2, 2);
  if (IsSkipped()) return;
  const auto input = filled(parts() * part()), output = test::allocate(part());
  comm().reduce_scatter(input.get(), output.get(), part(), DataType::uint8, ReduceOp::sum).wait(kTime);
  expect(output.get(), part(),
         [ranks = comm().size(), first = rank() * part()](std::size_t i) { return sum_at(ranks, first + i); });
}

TEST_F(Large, AllGather) {
  need(2, 2);
  if (IsSkipped()) return;
  const auto input = filled(part()), output = test::allocate(parts() * part());
  comm().all_gather(input.get(), output.get(), part(), DataType::uint8).wait(kTime);
  for (std::size_t r = 0; r < parts(); ++r)
    expect(output.get() + r * part(), part(), [r](std::size_t i) { return element_of(static_cast<int>(r), i); });
}

TEST_F(Large, AllToAll) {
  need(2, 2);
  if (IsSkipped()) return;
  const auto input = filled(parts() * part()), output = test::allocate(parts() * part());
  comm().all_to_all(input.get(), output.get(), part(), DataType::uint8).wait(kTime);
  for (std::size_t r = 0; r < parts(); ++r) {
    expect(output.get() + r * part(), part(),
           [r, first = rank() * part()](std::size_t i) { return element_of(static_cast<int>(r), first + i); });
  }
}

TEST_F(Large, Broadcast) {
  need(1, parts());
  if (IsSkipped()) return;
  const auto data = filled(kBytes);
  const int root = comm().size() - 1;
  comm().broadcast(data.get(), kBytes, DataType::uint8, root).wait(kTime);
  expect(data.get(), kBytes, [root](std::size_t i) { return element_of(root, i); });
}

}  // namespace
}  // namespace perrin::comm
