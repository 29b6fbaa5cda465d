#include "data/directory_lock.hpp"

#include <sys/wait.h>

#include <array>
#include <csignal>
#include <optional>

#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(DirectoryLock, TheSecondIsToldWhoHoldsIt) {
  const TemporaryFolder folder;
  std::array<char, 256> host{};
  ASSERT_EQ(::gethostname(host.data(), host.size() - 1), 0);
  std::optional<DirectoryLock> first(folder.path());
  EXPECT_THAT(data_error_of([&] { DirectoryLock second(folder.path()); }),
              AllOf(HasSubstr("process " + std::to_string(::getpid())), HasSubstr(host.data()), HasSubstr("in use")));
  first.reset();
  EXPECT_NO_THROW(DirectoryLock(folder.path()));
}

TEST(DirectoryLock, MovesWithItsOwner) {
  const TemporaryFolder folder;
  std::optional<DirectoryLock> first(folder.path());
  std::optional<DirectoryLock> second(std::move(*first));
  first.reset();
  EXPECT_THROW(DirectoryLock(folder.path()), DataError);
  second.reset();
  EXPECT_NO_THROW(DirectoryLock(folder.path()));
}

TEST(DirectoryLock, EndsWithAKilledProcess) {
  const TemporaryFolder folder;
  std::array<int, 2> locked{};
  ASSERT_EQ(::pipe(locked.data()), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const DirectoryLock lock(folder.path());
    [[maybe_unused]] const auto put = ::write(locked[1], "x", 1);
    for (;;) ::pause();
  }
  char signal = 0;
  ASSERT_EQ(::read(locked[0], &signal, 1), 1);
  EXPECT_THAT(data_error_of([&] { DirectoryLock lock(folder.path()); }),
              HasSubstr("process " + std::to_string(child) + " on "));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_NO_THROW(DirectoryLock(folder.path()));
  ::close(locked[0]);
  ::close(locked[1]);
}

TEST(DirectoryLock, LeavesNothingWhereAsked) {
  const TemporaryFolder folder;
  { const DirectoryLock lock(folder.path(), ".busy", DirectoryLock::OnRelease::remove_file); }
  EXPECT_THAT(names_in(folder.path()), IsEmpty());
}

TEST(DirectoryLock, AMissingFolderIsAnError) {
  const TemporaryFolder folder;
  EXPECT_THAT(data_error_of([&] { DirectoryLock lock(folder / "none"); }), HasSubstr("check the path"));
}

}  // namespace
}  // namespace perrin::data::test
