#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "comm/local_communicator.hpp"
#include "data/data_error.hpp"
#include "data/file.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/incarnation.hpp"
#include "trainer/run_error.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

class IncarnationTest : public testing::Test {
 protected:
  void write(const std::string& text) const { std::ofstream(paths.incarnation()) << text; }
  Incarnation begin() { return Incarnation::begin(paths, alone); }

  const test::TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  comm::LocalCommunicator alone;
};

TEST_F(IncarnationTest, CountsTheStartsOfARun) {
  EXPECT_EQ(begin().number(), 1);
  Incarnation second = begin();
  EXPECT_EQ(second.number(), 2);
  second.advance(alone);
  EXPECT_EQ(second.number(), 3);
  EXPECT_TRUE(second.visible());
  EXPECT_NO_THROW(second.require_current());
  EXPECT_EQ(begin().number(), 4);
}

TEST_F(IncarnationTest, IsAboveThatOfEveryCheckpointWhateverTheFileSays) {
  fs::create_directories(checkpoint_path(paths.checkpoints(), {7, 10}));
  fs::create_directories(checkpoint_path(paths.checkpoints(), {3, 90}));
  EXPECT_EQ(begin().number(), 8) << "no file";
  for (const char* text :
       {"", "garbage", "[]", "{}", "{\"incarnation\": \"9\", \"nonce\": 1}", "{\"incarnation\": -1, \"nonce\": 1}",
        "{\"incarnation\": 1e300, \"nonce\": 1}", "{\"incarnation\": 9223372036854775807, \"nonce\": 1}",
        "{\"incarnation\": 99999999999999999999, \"nonce\": 1}", "{\"incarnation\": 20, \"nonce\": null}",
        "{\"incarnation\": 2, \"nonce\": 1}"}) {
    write(text);
    EXPECT_EQ(begin().number(), 8) << text;
  }
  write("{\"incarnation\": 20, \"nonce\": 1}");
  EXPECT_EQ(begin().number(), 21);
}

TEST_F(IncarnationTest, IsSupersededByAnyOtherStart) {
  const Incarnation first = begin();
  EXPECT_NO_THROW(first.require_current());
  const Incarnation second = begin();
  EXPECT_THROW(first.require_current(), RunSuperseded);
  EXPECT_NO_THROW(second.require_current());
  // Two that saw the same old file, on both sides of a broken link, have the same number and differ all the same.
  auto json = nlohmann::json::parse(data::read_text_file(paths.incarnation()));
  json["nonce"] = json["nonce"].get<std::uint64_t>() + 1;
  write(json.dump());
  EXPECT_THROW(second.require_current(), RunSuperseded);
  fs::remove(paths.incarnation());
  EXPECT_THROW(second.require_current(), RunSuperseded);
}

}  // namespace
}  // namespace perrin::trainer
