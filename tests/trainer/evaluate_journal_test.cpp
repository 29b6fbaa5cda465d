#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "data/data_error.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/evaluate/batch_journal.hpp"

namespace perrin::trainer {
namespace {

constexpr std::size_t kBytes = 100;

std::vector<std::uint8_t> record(std::uint8_t first) {
  std::vector<std::uint8_t> bytes(kBytes);
  std::iota(bytes.begin(), bytes.end(), first);
  return bytes;
}

class BatchJournalTest : public testing::Test {
 protected:
  test::TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_.path() / "evaluation" / "samples.part";

  void write_three() const {
    BatchJournal journal(path_, "key", kBytes);
    for (std::uint8_t i = 0; i < 3; ++i) journal.append(record(i));
  }
};

TEST_F(BatchJournalTest, HoldsWhatAnEarlierStartAppended) {
  write_three();
  BatchJournal journal(path_, "key", kBytes);
  ASSERT_EQ(journal.size(), 3);
  for (std::uint8_t i = 0; i < 3; ++i) EXPECT_EQ(journal.read(i), record(i));
  journal.append(record(9));
  EXPECT_EQ(journal.read(3), record(9));
}

TEST_F(BatchJournalTest, BeginsAnewForAnotherKeyOrRecordSize) {
  write_three();
  EXPECT_EQ(BatchJournal(path_, "other", kBytes).size(), 0);
  write_three();
  EXPECT_EQ(BatchJournal(path_, "key", kBytes + 1).size(), 0);
}

TEST_F(BatchJournalTest, CountsNothingFromARecordThatWasCutShortOrDamaged) {
  write_three();
  std::filesystem::resize_file(path_, std::filesystem::file_size(path_) - 1);
  EXPECT_EQ(BatchJournal(path_, "key", kBytes).size(), 2);
  {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(64 + 50);
    file.put('\xff');
  }
  BatchJournal journal(path_, "key", kBytes);
  EXPECT_EQ(journal.size(), 0);
  journal.append(record(7));
  EXPECT_EQ(journal.read(0), record(7));
}

TEST_F(BatchJournalTest, IsRemovedOnlyWhereNobodyWritesIt) {
  {
    BatchJournal running(path_, "key", kBytes);
    BatchJournal::remove_abandoned(path_);
    EXPECT_TRUE(std::filesystem::exists(path_));
  }
  BatchJournal::remove_abandoned(path_);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(BatchJournalTest, HasOneWriter) {
  BatchJournal running(path_, "key", kBytes);
  running.append(record(1));
  EXPECT_THROW(BatchJournal(path_, "key", kBytes), data::DataError);
  EXPECT_EQ(running.read(0), record(1));
}

}  // namespace
}  // namespace perrin::trainer
