#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "comm/comm_error.hpp"
#include "tests/support/world.hpp"
#include "tests/trainer/small_network.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/checkpoint_writer.hpp"
#include "trainer/checkpoint/resume.hpp"
#include "trainer/gather_texts.hpp"
#include "trainer/run_error.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;
using test::kTinyBucket, test::parameters;

const CheckpointOrigin kOrigin{.config = "[run]\n",
                               .dataset_fingerprint = "f",
                               .image_shape = {1, 8, 8},
                               .sample_order = "order",
                               .ema_decays = {0.9}};

/// A folder of rank 0 that all ranks know, on one machine.
class SharedFolder {
 public:
  explicit SharedFolder(comm::World& world) : world_(world) {
    if (world.is_root()) own_.emplace();
    path_ = gather_texts(world.control(), own_ ? own_->path().string() : "").front();
  }
  ~SharedFolder() { world_.control().barrier().wait(); }  // none is still in it when it goes

  const fs::path& path() const { return path_; }

 private:
  comm::World& world_;
  std::optional<perrin::test::TemporaryFolder> own_;
  fs::path path_;
};

/// A training state whose every number is known.
TrainingState known_state(comm::World& world, bool shard) {
  return {.arena = ParameterArena(
              parameters(), 1, /*seed=*/3, at::kCPU,
              {.rank = world.rank(), .ranks = world.size(), .bucket_bytes = kTinyBucket, .shard = shard}),
          .progress = {.step = 5, .position = 60, .updates = 4},
          .losses = {},
          .loss_history = LossHistory(4)};
}

/// The whole of a buffer as fill() makes it. @return [plan().size()]
at::Tensor known_values(const ParameterArena& arena, std::size_t buffer, double scale) {
  const at::Tensor values = at::arange(arena.plan().size(), at::kFloat).mul(scale).add(static_cast<double>(buffer) + 1);
  at::Tensor whole = at::zeros_like(values);
  for (const auto& range : arena.layout().ranges())  // what no parameter covers stays 0
    whole.narrow(0, range.offset, range.numel).copy_(values.narrow(0, range.offset, range.numel));
  return whole;
}

void fill(ParameterArena& arena, double scale) {
  const at::NoGradGuard no_grad;
  std::size_t index = 0;
  for (const PersistentBuffer& buffer : arena.persistent()) {
    const at::Tensor whole = known_values(arena, index++, scale);
    if (buffer.is_state)
      arena.keep_own(whole, buffer.values);
    else
      buffer.values.copy_(whole);
  }
}

class CheckpointWriterOver : public testing::TestWithParam<bool> {
 protected:
  CheckpointWriterOver()
      : world(perrin::test::world()),
        folder(world),
        paths(folder.path()),
        state(known_state(world, GetParam())),
        incarnation(Incarnation::begin(paths, world.control())),
        shards(state.arena, world.gradients(), nullptr),
        writer(state, shards, world.control(), incarnation, {}) {
    fill(state.arena, kScale);
  }

  CheckpointWriter::Order order() const {
    return {.parent = paths.checkpoints(), .origin = kOrigin, .resumed_from = "step-00000003-i0000"};
  }
  WriteOutcome write() {
    writer.begin_checkpoint(order());
    return writer.finish().value();
  }
  /// Of rank 0; what is in the folder of the checkpoints, but for `latest`.
  std::set<std::string> left() const {
    world.control().barrier().wait();
    std::set<std::string> names;
    if (fs::exists(paths.checkpoints()))
      for (const auto& entry : fs::directory_iterator(paths.checkpoints())) names.insert(entry.path().filename());
    world.control().barrier().wait();
    names.erase(kLatestFile);
    return names;
  }
  void expect_stored(double scale) const {
    const fs::path path = checkpoint_path(paths.checkpoints(), {incarnation.number(), state.progress.step});
    const CheckpointManifest manifest = verify_checkpoint(path);
    std::size_t index = 0;
    for (const PersistentBuffer& buffer : state.arena.persistent()) {
      EXPECT_EQ(manifest.files_of(buffer.name).size(), static_cast<std::size_t>(writers));
      const auto tensors = read_checkpoint_buffer(path, manifest, buffer.name);
      const at::Tensor whole = known_values(state.arena, index++, scale);
      ASSERT_EQ(tensors.size(), parameters().size());
      for (const auto& range : state.arena.layout().ranges())
        EXPECT_TRUE(tensors.at(range.name).equal(state.arena.layout().view(whole, range))) << buffer.name << range.name;
    }
  }

  static constexpr double kScale = 0.125;
  const std::string name = "step-00000005-i0001";

  comm::World& world;
  SharedFolder folder;
  RunPaths paths;
  TrainingState state;
  Incarnation incarnation;
  ShardGather shards;
  CheckpointWriter writer;
  int writers = world.size();
};
INSTANTIATE_TEST_SUITE_P(Sharded, CheckpointWriterOver, testing::Bool());

TEST_P(CheckpointWriterOver, TheRanksPartsAreTheStateOfTheMomentItBegan) {
  writer.begin_checkpoint(order());
  fill(state.arena, 77);  // training goes on while threads write
  state.progress.step = 6;
  EXPECT_TRUE(writer.busy());
  const auto outcome = writer.finish();
  EXPECT_FALSE(writer.busy());
  state.progress.step = 5;
  ASSERT_TRUE(outcome && outcome->published);
  EXPECT_EQ(outcome->step, 5);
  EXPECT_EQ(outcome->path.filename(), name);
  EXPECT_THAT(left(), testing::ElementsAre(name));
  expect_stored(kScale);
  const CheckpointManifest manifest = read_manifest(outcome->path);
  EXPECT_EQ(manifest.progress, (Progress{.step = 5, .position = 60, .updates = 4}));
  EXPECT_EQ(manifest.incarnation, 1);
  EXPECT_EQ(manifest.parent, "step-00000003-i0000");
  std::uint64_t bytes = 0;
  for (const auto& [file, written] : manifest.files) bytes += written.bytes;
  EXPECT_EQ(outcome->bytes, bytes);
  EXPECT_FALSE(writer.finish()) << "nothing is in flight any more";
}

TEST_P(CheckpointWriterOver, IsReadByAnyOtherDivisionOfTheState) {
  ASSERT_TRUE(write().published);
  TrainingState other = known_state(world, !GetParam());
  const auto resumed = resume_newest(paths.checkpoints(), kOrigin, other, world.control());
  ASSERT_TRUE(resumed);
  EXPECT_EQ(resumed->checkpoint.filename(), name);
  EXPECT_EQ(other.progress, state.progress);
  const ShardGather gather(other.arena, world.gradients(), nullptr);
  std::size_t index = 0;
  for (const PersistentBuffer& buffer : other.arena.persistent())
    EXPECT_TRUE(gather.materialise(buffer).equal(known_values(other.arena, index++, kScale))) << buffer.name;
}

TEST_P(CheckpointWriterOver, TheVotesOfStepsCarryItToItsEnd) {
  writer.begin_checkpoint(order());
  std::optional<WriteOutcome> outcome;
  int steps = 0;
  for (; writer.busy() && steps < 6000; ++steps) {
    Votes votes;
    writer.cast(votes);
    world.control().all_reduce(std::span<double>(votes.counts()), comm::ReduceOp::sum).wait();
    outcome = writer.act(votes);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ASSERT_TRUE(outcome && outcome->published);
  EXPECT_GE(steps, 2);  // written, then published
  expect_stored(kScale);
}

TEST_P(CheckpointWriterOver, WritesOneAtATime) {
  writer.begin_checkpoint(order());
  EXPECT_THROW(writer.begin_checkpoint(order()), std::logic_error);
  EXPECT_TRUE(writer.finish()->published);
  expect_stored(kScale);
}

TEST_P(CheckpointWriterOver, ThatOneRankCannotWriteIsNotPublishedAndTheNextOneIs) {
  ::signal(SIGXFSZ, SIG_IGN);
  struct rlimit before {};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const bool last = world.rank() == world.size() - 1;
  if (last) {
    const struct rlimit full { .rlim_cur = 4096, .rlim_max = before.rlim_max };
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &full), 0);
  }
  const WriteOutcome failed = write();
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_FALSE(failed.published);
  EXPECT_THAT(left(), testing::IsEmpty());
  EXPECT_TRUE(write().published);
  EXPECT_THAT(left(), testing::ElementsAre(name));
  expect_stored(kScale);
}

TEST_P(CheckpointWriterOver, WhoseFolderIsTakenAwayIsNotPublished) {
  writer.begin_checkpoint(order());
  if (world.is_root())
    for (std::error_code error; fs::exists(unfinished(paths.checkpoints() / name)); std::this_thread::yield())
      fs::remove_all(unfinished(paths.checkpoints() / name), error);
  EXPECT_FALSE(writer.finish()->published);
  EXPECT_THAT(left(), testing::IsEmpty());
  EXPECT_TRUE(write().published);
}

TEST_P(CheckpointWriterOver, WithANumberThatIsNotFiniteIsNotPublished) {
  const at::Tensor& v = state.arena.persistent()[2].values;
  const at::Tensor before = v.clone();
  // The last rank's state, where it is sharded; a fault of memory in all of them, where it is not.
  if (!GetParam() || world.rank() == world.size() - 1) v.fill_(std::numeric_limits<float>::infinity());
  EXPECT_FALSE(write().published);
  EXPECT_THAT(left(), testing::IsEmpty());
  v.copy_(before);
  EXPECT_TRUE(write().published);
}

TEST_P(CheckpointWriterOver, OfAStartThatIsSupersededEndsAllRanks) {
  ASSERT_TRUE(write().published);
  state.progress.step = 8;
  writer.begin_checkpoint(order());
  if (world.is_root()) std::ofstream(paths.incarnation()) << "{\"incarnation\": 2, \"nonce\": 1}";
  EXPECT_THROW(writer.finish(), RunSuperseded);
  std::set<std::string> names = left();
  names.erase("step-00000008-i0001.tmp");  // the other start's to remove
  EXPECT_THAT(names, testing::ElementsAre(name));
}

TEST_P(CheckpointWriterOver, OfRanksThatHaveDriftedApartNamesOne) {
  if (world.size() == 1) GTEST_SKIP() << "one rank has nobody to differ from";
  const int odd = world.size() - 1;
  const at::Tensor& weights = state.arena.weights();
  if (world.rank() == odd)  // one bit of one weight
    weights.mutable_data_ptr<float>()[17] = std::nextafter(weights.const_data_ptr<float>()[17], 1e9f);
  try {
    writer.begin_checkpoint(order());
    ADD_FAILURE() << "weights that differ were accepted";
  } catch (const comm::CommError& error) {
    EXPECT_EQ(error.late_ranks(), std::vector<int>{odd});
    EXPECT_THAT(error.what(), testing::HasSubstr("drifted apart"));
  }
  EXPECT_FALSE(writer.busy());
  EXPECT_THAT(left(), testing::IsEmpty());
}

TEST(CheckpointWriter, LeavesOutRanksThatDoNotSeeTheFolder) {
  comm::World& world = perrin::test::world();
  if (world.size() == 1) GTEST_SKIP() << "the one rank sees its own folder";
  const SharedFolder folder(world);
  const perrin::test::TemporaryFolder own_disk;
  const bool blind = world.rank() == world.size() - 1;
  const RunPaths paths(folder.path());
  TrainingState state = known_state(world, /*shard=*/true);
  fill(state.arena, 0.5);
  const Incarnation incarnation = Incarnation::begin(blind ? RunPaths(own_disk.path()) : paths, world.control());
  const ShardGather shards(state.arena, world.gradients(), nullptr);
  CheckpointWriter writer(state, shards, world.control(), incarnation, {});
  writer.begin_checkpoint({.parent = paths.checkpoints(), .origin = kOrigin, .resumed_from = ""});
  const WriteOutcome outcome = writer.finish().value();
  ASSERT_TRUE(outcome.published);
  EXPECT_TRUE(fs::is_empty(own_disk.path()));
  const CheckpointManifest manifest = verify_checkpoint(outcome.path);
  EXPECT_EQ(manifest.files_of("adam_m").size(), static_cast<std::size_t>(world.size() - 1));
  const auto tensors = read_checkpoint_buffer(outcome.path, manifest, "adam_m");
  const at::Tensor whole = known_values(state.arena, 1, 0.5);
  for (const auto& range : state.arena.layout().ranges())
    EXPECT_TRUE(tensors.at(range.name).equal(state.arena.layout().view(whole, range))) << range.name;
}

}  // namespace
}  // namespace perrin::trainer
