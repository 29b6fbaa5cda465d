#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <string>

#include "data/file.hpp"
#include "data/sha256.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/manifest.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ManifestTest : public testing::Test {
 protected:
  void write(const std::string& text) const { data::write_file_durably(folder.path() / "manifest.json", text); }

  CheckpointManifest reading(const std::string& text) const {
    write(text);
    return read_manifest(folder.path());
  }
  /// What is said of a text that is refused; damage and all else are told apart, since only from damage a run falls
  /// back to the checkpoint before.
  std::string refusal(const std::string& text) const {
    write(text);
    try {
      read_manifest(folder.path());
    } catch (const DamagedCheckpoint& error) {
      return std::string("damaged: ") + error.what();
    } catch (const CheckpointError& error) {
      return std::string("refused: ") + error.what();
    }
    return "accepted";
  }

  const test::TemporaryFolder folder;
  const CheckpointManifest manifest{
      .incarnation = 2,
      .parent = "step-00000010-i0001",
      .progress = {.step = 20, .position = 340, .updates = 19, .rollbacks = 1},
      .losses =
          {.sum = 0.1, .simple = 2, .bound = 3, .count = 4, .quartile_sums = {5, 6, 7, 8}, .quartile_weights = {9}},
      .heldout_loss = 0.25,
      .origin = {.config = "[run]\nseed = 0\n",
                 .dataset_fingerprint = "f",
                 .image_shape = {1, 8, 8},
                 .sample_order = "order",
                 .ema_decays = {0.9},
                 .power_sigmas = {0.05, 0.1},
                 .machine = "1 thread a rank, AVX2"},
      .layout_sha256 = "l",
      .files = {{"weights.safetensors", {.bytes = 3, .sha256 = "s"}}}};
};

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

/// With a field more, and the checksum that its writer would have given it.
std::string with_field(const CheckpointManifest& manifest, const std::string& field) {
  std::string text = to_json(manifest);
  text.resize(text.rfind(",\n  \"manifest_sha256\""));
  text += ",\n  " + field;
  std::string compact;  // no blank is inside a string of these manifests, but for the configuration and the machine
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') quoted = !quoted;
    if (quoted || (c != ' ' && c != '\n')) compact += c;
  }
  return text + ",\n  \"manifest_sha256\": \"" + data::sha256_hex(compact + "}") + "\"\n}\n";
}

// The golden files of versions 2 and 3 were not made by this program: a few lines of Python followed
// docs/checkpoints.md.
TEST_F(ManifestTest, OfEveryVersionIsReadAndWrittenAsItWas) {
  for (const int version : {1, 2, 3}) {
    const fs::path golden = fs::path(PERRIN_TEST_DATA) / ("checkpoint_format_" + std::to_string(version) + ".json");
    const std::string text = data::read_text_file(golden);
    const CheckpointManifest read = reading(text);
    EXPECT_EQ(read.format_version, version);
    EXPECT_EQ(to_json(read), text) << version;
  }
}

TEST_F(ManifestTest, OfEveryVersionMeansWhatItSays) {
  const auto golden = [&](int version) {
    return reading(
        data::read_text_file(fs::path(PERRIN_TEST_DATA) / ("checkpoint_format_" + std::to_string(version) + ".json")));
  };
  const CheckpointManifest first = golden(1), second = golden(2), third = golden(3);
  EXPECT_TRUE(first.origin.power_sigmas.empty());
  EXPECT_THAT(first.origin.averages(), testing::ElementsAre("EMA 0.9999"));

  EXPECT_THAT(second.origin.averages(), testing::ElementsAre("EMA 0.9999", "power EMA 0.05", "power EMA 0.1"));
  EXPECT_EQ(second.origin.machine, "1 thread a rank, AVX2");
  EXPECT_EQ(second.losses.sum, 1.25);
  EXPECT_EQ(second.losses.simple, 1.5);
  EXPECT_EQ(second.losses.count, 3);
  EXPECT_EQ(second.losses.quartile_sums[3], 2.0);
  EXPECT_TRUE(std::isnan(second.losses.quartile_sums[2]));
  EXPECT_EQ(second.losses.quartile_weights[0], 4.0);
  EXPECT_EQ(second.incarnation, 0);
  EXPECT_EQ(second.heldout_loss, std::nullopt);
  EXPECT_THAT(second.files_of("weights"), testing::ElementsAre("weights.safetensors"));

  EXPECT_EQ(third.progress, (Progress{.step = 1000, .position = 4100, .updates = 998, .rollbacks = 1}));
  EXPECT_EQ(third.incarnation, 3);
  EXPECT_EQ(third.parent, "step-00000900-i0002");
  EXPECT_EQ(third.heldout_loss, 0.0625);
  EXPECT_THAT(third.files_of("adam_m"),
              testing::ElementsAre("adam_m-00001-of-00002.safetensors", "adam_m-00002-of-00002.safetensors"));
  EXPECT_THROW(third.files_of("ema-1"), std::out_of_range);
}

TEST_F(ManifestTest, ComesBackAsItWas) {
  EXPECT_EQ(reading(to_json(manifest)), manifest);
  CheckpointManifest overflowed = manifest;
  overflowed.losses.bound = std::numeric_limits<double>::infinity();  // JSON has no such number
  EXPECT_FALSE(std::isfinite(reading(to_json(overflowed)).losses.bound));
}

TEST_F(ManifestTest, ThatWasAlteredIsDamagedWhateverWasAltered) {
  const std::string text = to_json(manifest);
  EXPECT_THAT(refusal(replaced(text, "0.05", "0.06")), HasSubstr("damaged: "));
  EXPECT_THAT(refusal(replaced(text, "\"step\": 20", "\"step\": 21")), HasSubstr("damaged: "));
  // Not for another program to read: nobody wrote this version, or this kind.
  EXPECT_THAT(refusal(replaced(text, "\"format_version\": 3", "\"format_version\": 7")), HasSubstr("damaged: "));
  EXPECT_THAT(refusal(replaced(text, "perrin-checkpoint", "perrin-cheCkpoint")), HasSubstr("damaged: "));
  EXPECT_THAT(refusal(replaced(text, "\"parent\"", "\"Parent\"")), HasSubstr("damaged: "));
  EXPECT_THAT(refusal(""), HasSubstr("damaged: "));
  EXPECT_THAT(refusal("[]"), HasSubstr("damaged: "));
  EXPECT_THAT(refusal("{}"), HasSubstr("damaged: "));
  EXPECT_THAT(refusal(text.substr(0, text.size() / 2)), HasSubstr("damaged: "));
}

TEST_F(ManifestTest, OfAnotherProgramOrVersionIsRefusedAndNotFallenBackFrom) {
  CheckpointManifest later = manifest;
  later.format_version = 4;
  EXPECT_THAT(refusal(to_json(later)), testing::AllOf(HasSubstr("refused: "), HasSubstr("reads versions 1 to 3")));
  CheckpointManifest snapshot = manifest;
  snapshot.contents = Contents::snapshot;
  EXPECT_THAT(refusal(to_json(snapshot)), testing::AllOf(HasSubstr("refused: "), HasSubstr("snapshot of averages")));
  CheckpointManifest same = manifest;
  same.origin.config = same.origin.machine = "x";
  EXPECT_THAT(refusal(with_field(same, "\"unknown\": 1")),
              testing::AllOf(HasSubstr("refused: "), HasSubstr("does not know")));
}

TEST_F(ManifestTest, ThatIsHostileIsRefused) {
  for (const char* name : {"../weights.safetensors", "/tmp/weights.safetensors", "a/b", "..", ".", ""}) {
    CheckpointManifest hostile = manifest;
    hostile.files = {{name, {.bytes = 3, .sha256 = "s"}}};
    EXPECT_THAT(refusal(to_json(hostile)), HasSubstr("outside of its folder")) << name;
  }
  // A parser or printer that calls itself for each level would run out of stack.
  const std::size_t levels = 4'000'000;
  std::string deep = "{\"manifest_sha256\": \"x\", \"deep\": ";
  deep.append(levels, '[').append(levels, ']').append("}");
  EXPECT_THAT(refusal(deep), HasSubstr("nested deeper"));
}

}  // namespace
}  // namespace perrin::trainer
