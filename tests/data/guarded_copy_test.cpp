#include "data/guarded_copy.hpp"

#include <sys/wait.h>

#include <csignal>
#include <thread>

#include "data/mapped_file.hpp"
#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

constexpr std::size_t kBytes = 64 * 1024;

TEST(GuardedCopy, CopiesAndEndsWhereTheFileEnds) {
  const TemporaryFolder folder;
  std::string text(kBytes, 'a');
  text.back() = 'z';
  write_contents(folder / "f", text);
  const MappedFile mapped(File::open_for_reading(folder / "f"));
  ASSERT_EQ(mapped.bytes().size(), kBytes);
  std::vector<std::byte> bytes(kBytes);
  ASSERT_TRUE(guarded_copy(bytes, mapped.bytes().data()));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), kBytes), text);

  fs::resize_file(folder / "f", kBytes / 2);
  // More than once and on several threads: a handler that leaves the signal blocked ends the process at the second.
  const auto attempts = [&] {
    std::vector<std::byte> own(kBytes);
    for (int again = 0; again < 3; ++again) {
      EXPECT_FALSE(guarded_copy(own, mapped.bytes().data()));
      EXPECT_TRUE(guarded_copy(std::span(own).first(kBytes / 2), mapped.bytes().data()));
    }
  };
  std::jthread(attempts).join();
  attempts();
}

TEST(GuardedCopyDeathTest, LeavesOtherBusErrorsToTheHandlerBeforeIt) {
  // A new process: guarded_copy installs its handler once, and here that must be after this test's own.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        ::signal(SIGBUS, [](int) { ::_exit(42); });
        std::byte byte{};
        guarded_copy({&byte, 1}, &byte);
        ::raise(SIGBUS);
      },
      ::testing::ExitedWithCode(42), "");
}

TEST(MappedFile, OfNothingIsEmpty) {
  const TemporaryFolder folder;
  write_contents(folder / "f", "");
  EXPECT_TRUE(MappedFile(File::open_for_reading(folder / "f")).bytes().empty());
}

}  // namespace
}  // namespace perrin::data::test
