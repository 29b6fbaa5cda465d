// What the checks of `perrin selftest` find, and that they find what is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "comm/local_communicator.hpp"
#include "launch/selftest/checklist.hpp"
#include "launch/selftest/collective_checks.hpp"
#include "launch/selftest/machine_checks.hpp"

namespace perrin::launch {
namespace {

using comm::DataType;
using comm::ReduceOp;
using comm::Work;
using testing::HasSubstr;

/// Does what it is asked to, and spoils one byte of every result from the given operation on.
class Spoiler final : public comm::Communicator {
 public:
  explicit Spoiler(int after = 0) : good_(after) {}

  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  std::string_view backend() const noexcept override { return "spoiler"; }
  bool failed() const noexcept override { return false; }
  Work all_reduce(void* data, std::size_t count, DataType type, ReduceOp op, void* stream) override {
    return spoil(local_.all_reduce(data, count, type, op, stream), data, count);
  }
  Work reduce_scatter(const void* input, void* output, std::size_t count, DataType type, ReduceOp op,
                      void* stream) override {
    return spoil(local_.reduce_scatter(input, output, count, type, op, stream), output, count);
  }
  Work all_gather(const void* input, void* output, std::size_t count, DataType type, void* stream) override {
    return spoil(local_.all_gather(input, output, count, type, stream), output, count);
  }
  Work all_to_all(const void* input, void* output, std::size_t count, DataType type, void* stream) override {
    return spoil(local_.all_to_all(input, output, count, type, stream), output, count);
  }
  Work broadcast(void* data, std::size_t count, DataType type, int root, void* stream) override {
    return spoil(local_.broadcast(data, count, type, root, stream), data, count);
  }
  Work barrier() override { return local_.barrier(); }

 private:
  Work spoil(Work work, void* data, std::size_t count) {
    if (count > 0 && good_-- <= 0) static_cast<std::uint8_t*>(data)[1] ^= 0x41;  // shows in every element type
    return work;
  }

  comm::LocalCommunicator local_;
  int good_;
};

class CollectiveCheck : public testing::TestWithParam<CollectiveName> {};

TEST_P(CollectiveCheck, PassesWhatIsRightAndFindsWhatIsWrong) {
  for (const DataType type : {DataType::float32, DataType::bfloat16, DataType::float64, DataType::int64}) {
    comm::LocalCommunicator right;
    EXPECT_EQ(check_collective(right, at::kCPU, GetParam(), type).kind, Finding::Kind::passed);
    Spoiler wrong;
    const Finding found = check_collective(wrong, at::kCPU, GetParam(), type);
    EXPECT_EQ(found.kind, Finding::Kind::failed) << name_of(type);
    EXPECT_THAT(found.reason, HasSubstr("are wrong, the first at 0"));
  }
}

INSTANTIATE_TEST_SUITE_P(All, CollectiveCheck,
                         testing::Values(CollectiveName::all_reduce, CollectiveName::reduce_scatter,
                                         CollectiveName::all_gather, CollectiveName::all_to_all,
                                         CollectiveName::broadcast));

TEST(LargeSum, MustBeRightAndTheSameTwice) {
  comm::LocalCommunicator right;
  EXPECT_EQ(check_large_sum(right, at::kCPU, right).kind, Finding::Kind::passed);
  Spoiler wrong, wrong_later(/*after=*/1);
  EXPECT_THAT(check_large_sum(wrong, at::kCPU, right).reason, HasSubstr("is off by"));
  EXPECT_THAT(check_large_sum(wrong_later, at::kCPU, right).reason, HasSubstr("other bits the second time"));
}

TEST(Machine, GivesTheKnownAnswersAndBits) {
  EXPECT_EQ(check_known_answers().reason, "");
  EXPECT_EQ(check_random_bits().reason, "");
  EXPECT_EQ(check_training_step(at::kCPU).reason, "");
}

TEST(Folder, IsCheckedAndLeftAsItWas) {
  comm::World world = comm::World::from_environment();
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "selftest-folder";
  std::filesystem::create_directories(folder);
  EXPECT_EQ(check_folder(folder, world).reason, "");
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  EXPECT_EQ(check_folder("", world).kind, Finding::Kind::skipped);
  EXPECT_EQ(check_folder(folder / "missing", world).kind, Finding::Kind::failed);
}

TEST(Checklist, CountsVerdictsAndNamesTheRankThatFails) {
  comm::World world = comm::World::from_environment();
  Checklist checklist(world);
  testing::internal::CaptureStdout();
  checklist.run("good", [] { return Finding::pass(); });
  checklist.run("left out", [] { return Finding::skip("no GPU"); });
  EXPECT_TRUE(checklist.conclude());
  checklist.run("bad", []() -> Finding { throw std::runtime_error("boom"); });
  EXPECT_FALSE(checklist.conclude());
  const std::string printed = testing::internal::GetCapturedStdout();
  EXPECT_THAT(printed, HasSubstr("skipped: no GPU"));
  EXPECT_THAT(printed, HasSubstr("FAILED: rank 0 (" + world.host_name() + "): boom"));
  EXPECT_THAT(printed, HasSubstr("1 passed, 1 failed, 1 skipped\n"));
}

}  // namespace
}  // namespace perrin::launch
