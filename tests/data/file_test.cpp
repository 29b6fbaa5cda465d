#include "data/file.hpp"

#include <sys/resource.h>
#include <sys/stat.h>

#include <array>
#include <csignal>
#include <cstdio>

#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(File, ReadsExactlyWhatWasWritten) {
  const TemporaryFolder folder;
  File out = File::create(folder / "f");
  out.write_all(std::as_bytes(std::span("hello", 5)));
  out.pwrite_all(std::as_bytes(std::span("J", 1)), 0);
  out.write_all(std::as_bytes(std::span("!", 1)));
  out.sync();
  out.close();
  EXPECT_EQ(read_text_file(folder / "f"), "Jello!");
  EXPECT_EQ(read_file(folder / "f").size(), 6u);
  std::array<char, 3> middle{};
  File::open_for_reading(folder / "f").pread_exact(std::as_writable_bytes(std::span(middle)), 1);
  EXPECT_EQ(std::string_view(middle.data(), 3), "ell");
}

TEST(File, AnEarlyEndNamesFileAndByte) {
  const TemporaryFolder folder;
  write_contents(folder / "short", "abc");
  std::array<std::byte, 10> buffer{};
  const File file = File::open_for_reading(folder / "short");
  try {
    file.pread_exact(buffer, 1);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_EQ(error.file(), folder / "short");
    EXPECT_EQ(error.offset(), 3u);
    EXPECT_THAT(error.what(), HasSubstr("8 of 10 wanted bytes short"));
  }
}

TEST(File, RefusesWhatIsNoRegularFileWithoutBlocking) {
  const TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(data_error_of([&] { File::open_for_reading(folder / "pipe"); }), HasSubstr("not a regular file"));
  EXPECT_THAT(data_error_of([&] { File::open_for_reading(folder.path()); }), HasSubstr("not a regular file"));
  EXPECT_THAT(data_error_of([&] { File::open_for_reading(folder / "none"); }), HasSubstr("check the path"));
}

TEST(File, RefusesSymbolicLinksWhereAsked) {
  const TemporaryFolder folder;
  write_contents(folder / "real", "x");
  fs::create_symlink("real", folder / "link");
  EXPECT_NO_THROW(File::open_for_reading(folder / "link"));
  EXPECT_THAT(data_error_of([&] { File::open_for_reading(folder / "link", Symlinks::refuse); }),
              HasSubstr("symbolic links are not followed"));
}

TEST(File, NeverOverwritesByCreate) {
  const TemporaryFolder folder;
  write_contents(folder / "f", "old");
  EXPECT_THAT(data_error_of([&] { File::create(folder / "f"); }), HasSubstr("nothing was overwritten"));
  EXPECT_EQ(contents_of(folder / "f"), "old");
}

TEST(File, AFullDeviceIsAnErrorWithItsRemedy) {
  File full = File::open_for_writing("/dev/full");
  EXPECT_THAT(data_error_of([&] { full.write_all(std::as_bytes(std::span("x", 1))); }),
              AllOf(HasSubstr("No space left on device"), HasSubstr("free space")));
}

TEST(File, BoundsWhatIsReadByTheLimit) {
  const TemporaryFolder folder;
  write_contents(folder / "f", "12345");
  EXPECT_EQ(read_text_file(folder / "f", 5), "12345");
  EXPECT_THAT(data_error_of([&] { read_text_file(folder / "f", 4); }), HasSubstr("has 5 bytes"));
}

TEST(DurableWrite, ReplacesTheWholeFileAndLeavesNothingBeside) {
  const TemporaryFolder folder;
  write_file_durably(folder / "f", "first, and longer");
  write_file_durably(folder / "f", "second");
  EXPECT_EQ(contents_of(folder / "f"), "second");
  EXPECT_THAT(names_in(folder.path()), ElementsAre("f"));
}

TEST(DurableWrite, AFailureKeepsTheOldFileAndRemovesItsOwn) {
  const TemporaryFolder folder;
  write_contents(folder / "f", "old");
  // In a child, since the limit stays with the process.
  const auto fail_half_way = [&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_durably(folder / "f", std::string(10'000, 'n'));
    } catch (const DataError& error) {
      std::fputs(error.what(), stderr);
      std::_Exit(7);
    }
    std::_Exit(0);
  };
  EXPECT_EXIT(fail_half_way(), ::testing::ExitedWithCode(7), "File too large; raise the file size limit");
  EXPECT_EQ(contents_of(folder / "f"), "old");
  EXPECT_THAT(names_in(folder.path()), ElementsAre("f"));
}

TEST(DurableWrite, AMissingFolderIsNamed) {
  const TemporaryFolder folder;
  EXPECT_THAT(data_error_of([&] { write_file_durably(folder / "none/f", "x"); }), HasSubstr("none/f"));
  EXPECT_THAT(names_in(folder.path()), IsEmpty());
}

TEST(DurableRename, NeverReplacesAFolderWithContents) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "new");
  fs::create_directories(folder / "old");
  write_contents(folder / "old/precious", "x");
  EXPECT_THAT(data_error_of([&] { rename_durably(folder / "new", folder / "old"); }),
              HasSubstr("nothing was overwritten"));
  EXPECT_EQ(contents_of(folder / "old/precious"), "x");
}

}  // namespace
}  // namespace perrin::data::test
