// What bit rot, half writes and strangers make of a checkpoint's files: never a crash, never taken for what was
// written, and the checkpoint before it serves.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "comm/local_communicator.hpp"
#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/checkpoint_writer.hpp"
#include "trainer/checkpoint/resume.hpp"
#include "trainer/checkpoint/stored_model.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int kMutants = 1000;
const Initializer kRandom{.kind = Initializer::Kind::xavier_uniform, .scale = 1.0};

/// Seeded damage to the bytes of a file; each kind is as likely as the others.
class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  /// Not the original. @param original not empty
  std::string mutant(const std::string& original) {
    for (;;)
      if (std::string bytes = damaged(original); bytes != original) return bytes;
  }
  std::size_t below(std::size_t end) { return std::uniform_int_distribution<std::size_t>(0, end - 1)(random_); }

 private:
  std::string damaged(std::string bytes) {
    constexpr std::size_t kPage = 512;
    const std::size_t at = below(bytes.size()), count = std::min(bytes.size() - at, 1 + below(kPage));
    switch (below(8)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:
        bytes[at] = static_cast<char>(below(256));
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3:
        bytes.append(count, '\0');
        break;
      case 4:
        std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), count, '\0');
        break;
      case 5:
        bytes.erase(at, count);
        break;
      case 6:
        bytes.insert(below(bytes.size()), bytes.substr(at, count));
        break;
      default: {  // one number becomes another
        const std::size_t digit = bytes.find_first_of("0123456789", at);
        if (digit != std::string::npos) bytes[digit] = static_cast<char>('0' + below(10));
      }
    }
    return bytes;
  }

  std::mt19937_64 random_;
};

void write_bytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

/// A run with the checkpoints of steps 1 and 2.
class MutantsTest : public testing::Test {
 protected:
  MutantsTest() {
    spdlog::set_level(spdlog::level::off);  // each mutant is named in the log
    const Incarnation incarnation = Incarnation::begin(paths, alone);
    CheckpointWriter writer(state, shards, alone, incarnation, {});
    for (const std::int64_t step : {1, 2}) {
      state.progress.step = step;
      state.arena.weights().mul_(1.5);
      writer.begin_checkpoint({.parent = paths.checkpoints(), .origin = origin, .resumed_from = ""});
      EXPECT_TRUE(writer.finish()->published);
    }
  }
  ~MutantsTest() override { spdlog::set_level(spdlog::level::info); }

  std::int64_t resumed_step() {
    return resume_newest(paths.checkpoints(), origin, state, alone) ? state.progress.step : 0;
  }
  /// The newest checkpoint is damaged now; it is set aside by a start, which takes the one before. Ends with it where
  /// it was.
  void expect_fall_back(const std::string& which) {
    EXPECT_THROW(verify_checkpoint(newest), DamagedCheckpoint) << which;
    EXPECT_EQ(resumed_step(), 1) << which;
    const fs::path aside = newest.string() + ".damaged";
    ASSERT_TRUE(fs::exists(aside)) << which;
    fs::rename(aside, newest);
  }

  const CheckpointOrigin origin{.config = "[run]\nseed = 0\n",
                                .dataset_fingerprint = "f",
                                .image_shape = {1, 8, 8},
                                .sample_order = "order",
                                .ema_decays = {0.9}};
  const test::TemporaryFolder folder;
  const RunPaths paths{folder.path()};
  comm::LocalCommunicator alone;
  TrainingState state{.arena = ParameterArena({{.name = "a", .shape = {12, 5}, .initializer = kRandom},
                                               {.name = "b", .shape = {12, 5}, .initializer = kRandom}},
                                              1, 3, at::kCPU),
                      .progress = {},
                      .losses = {},
                      .loss_history = LossHistory()};
  ShardGather shards{state.arena, alone, nullptr};
  const fs::path newest = checkpoint_path(paths.checkpoints(), {1, 2});
};

TEST_F(MutantsTest, OfTheManifestFallBack) {
  const fs::path path = newest / CheckpointManifest::kFileName;
  const std::string original = data::read_text_file(path);
  const CheckpointManifest written = read_manifest(newest);
  Mutator mutator(1);
  int same_meaning = 0;
  for (int i = 0; i < kMutants; ++i) {
    write_bytes(path, mutator.mutant(original));
    try {
      EXPECT_EQ(read_manifest(newest), written) << "mutant " << i << " was accepted";
      ++same_meaning;  // a blank more or less between two fields
      continue;
    } catch (const DamagedCheckpoint&) {
    }
    expect_fall_back("mutant " + std::to_string(i));
  }
  EXPECT_LT(same_meaning, kMutants / 10);
  write_bytes(path, original);
  EXPECT_EQ(resumed_step(), 2);
}

TEST_F(MutantsTest, OfATensorFileFallBack) {
  const fs::path path = newest / "weights.safetensors";
  const std::string original = data::read_text_file(path);
  Mutator mutator(2);
  for (int i = 0; i < kMutants; ++i) {
    write_bytes(path, mutator.mutant(original));
    expect_fall_back("mutant " + std::to_string(i));
  }
  write_bytes(path, original);
  EXPECT_EQ(resumed_step(), 2);
}

TEST_F(MutantsTest, WhoseFilesWereExchangedOrLostFallBack) {
  const auto exchange = [&](const fs::path& a, const fs::path& b) {
    fs::rename(a, newest / "between");
    fs::rename(b, a);
    fs::rename(newest / "between", b);
  };
  exchange(newest / "adam_m.safetensors", newest / "weights.safetensors");
  expect_fall_back("two buffers");
  exchange(newest / "adam_m.safetensors", newest / "weights.safetensors");
  const fs::path before = checkpoint_path(paths.checkpoints(), {1, 1});
  exchange(newest / "weights.safetensors", before / "weights.safetensors");
  EXPECT_THROW(verify_checkpoint(newest), DamagedCheckpoint);
  EXPECT_THROW(verify_checkpoint(before), DamagedCheckpoint);
  EXPECT_THROW(resumed_step(), CheckpointError) << "both are damaged: nothing is begun anew unasked";
  EXPECT_TRUE(fs::exists(newest) && fs::exists(before)) << "and nothing is moved";
  exchange(newest / "weights.safetensors", before / "weights.safetensors");
  for (const char* file : {"weights.safetensors", "manifest.json"}) {
    fs::rename(newest / file, folder.path() / "away");
    expect_fall_back(file);
    fs::rename(folder.path() / "away", newest / file);
  }
  EXPECT_EQ(resumed_step(), 2);
}

TEST_F(MutantsTest, UnderTheNameOfAnotherFallBack) {
  for (const CheckpointName& name : {CheckpointName{1, 9}, CheckpointName{7, 2}}) {
    const fs::path renamed = checkpoint_path(paths.checkpoints(), name);
    fs::rename(newest, renamed);
    EXPECT_EQ(resumed_step(), 1) << renamed;
    fs::rename(renamed.string() + ".damaged", newest);
  }
  EXPECT_EQ(resumed_step(), 2);
}

/// A tensor file of a stranger, with a manifest that vouches for it.
class HostileTest : public MutantsTest {
 protected:
  /// @return whether the checkpoint was taken. Nothing but CheckpointError is thrown.
  bool taken(const std::string& bytes) {
    write_bytes(file, bytes);
    CheckpointManifest vouching = manifest;
    vouching.files["weights.safetensors"] = {.bytes = bytes.size(), .sha256 = data::sha256_hex(bytes)};
    write_bytes(newest / CheckpointManifest::kFileName, to_json(vouching));
    try {
      return resumed_step() == 2;
    } catch (const CheckpointError&) {
      return false;
    }
  }

  const fs::path file = newest / "weights.safetensors";
  const std::string original = data::read_text_file(file);
  const CheckpointManifest manifest = read_manifest(newest);
};

TEST_F(HostileTest, HeadersAreRefusedOrMeanWhatTheySay) {
  std::uint64_t header_bytes = 0;
  std::copy_n(original.begin(), sizeof header_bytes, reinterpret_cast<char*>(&header_bytes));
  const std::string header = original.substr(0, 8 + header_bytes), body = original.substr(8 + header_bytes);
  Mutator mutator(3);
  for (int i = 0; i < kMutants; ++i) {
    if (!taken(mutator.mutant(header) + body)) continue;
    // What was changed is free text, then: both parameters are there in their shapes and hold the file's numbers.
    const auto tensors = read_checkpoint_tensors(newest, "weights.safetensors");
    ASSERT_EQ(tensors.size(), 2u) << i;
    for (const auto& [name, tensor] : tensors) EXPECT_EQ(tensor.numel(), 60) << i;
  }
  EXPECT_TRUE(taken(original));
}

TEST_F(HostileTest, ClaimsThatWouldReadOutsideOfTheFileAreRefused) {
  const auto file_of = [](const std::string& header, std::size_t body) {
    std::string bytes(8, '\0');
    const std::uint64_t length = header.size();
    std::copy_n(reinterpret_cast<const char*>(&length), 8, bytes.begin());
    return bytes + header + std::string(body, 'x');
  };
  const std::string b = R"(,"b":{"dtype":"F32","shape":[12,5],"data_offsets":[240,480]}})";
  for (
      const std::string a : {
          R"({"a":{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,240]})",  // the product wraps
          R"({"a":{"dtype":"F32","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,240]})",
          R"({"a":{"dtype":"F32","shape":[12,5],"data_offsets":[240,0]})",
          R"({"a":{"dtype":"F32","shape":[12,5],"data_offsets":[18446744073709551376,0]})",
          R"({"a":{"dtype":"F32","shape":[12,5],"data_offsets":[240,480]})",  // over b, a hole before
          R"({"a":{"dtype":"F32","shape":[-12,-5],"data_offsets":[0,240]})",
          R"({"a":{"dtype":"F16","shape":[12,10],"data_offsets":[0,240]})",
          R"({"c":{"dtype":"F32","shape":[0,9223372036854775807,4],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[5,12],"data_offsets":[0,240]})",
          R"({"a":{"dtype":"F32","shape":[12,5],"data_offsets":[0,240]},"a":{"dtype":"F32","shape":[12,5],"data_offsets":[0,240]})",
      })
    EXPECT_FALSE(taken(file_of(a + b, 480))) << a;
  for (const std::string& bytes :
       {std::string(8, '\xff'), std::string("\xff\xff\xff\xff\0\0\0\0{}", 10), std::string()})
    EXPECT_FALSE(taken(bytes));
  EXPECT_FALSE(taken(file_of("{\"a\":" + std::string(1'000'000, '['), 0))) << "deep enough to exhaust a stack";
  EXPECT_TRUE(taken(file_of(R"({"a":{"dtype":"F32","shape":[12,5],"data_offsets":[0,240]})" + b, 480)));
}

TEST_F(MutantsTest, OfLatestChangeNothing) {
  const fs::path latest = paths.checkpoints() / kLatestFile;
  const std::string original = data::read_text_file(latest);
  ASSERT_EQ(original, "step-00000002-i0001\n");
  Mutator mutator(4);
  for (int i = 0; i < kMutants; ++i) {
    write_bytes(latest, mutator.mutant(original));
    EXPECT_EQ(resumed_step(), 2) << i;
    EXPECT_EQ(resolve_checkpoint(folder.path()), newest) << i;
  }
  fs::remove(latest);
  EXPECT_EQ(resumed_step(), 2) << "none";
  fs::create_symlink("step-00000009-i0009", latest);
  EXPECT_EQ(resumed_step(), 2) << "a dangling link";
  fs::remove(latest);
  fs::create_directory(latest);
  EXPECT_EQ(resumed_step(), 2) << "a folder";
}

}  // namespace
}  // namespace perrin::trainer
