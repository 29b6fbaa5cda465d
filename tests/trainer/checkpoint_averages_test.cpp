#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "comm/local_communicator.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/checkpoint_writer.hpp"
#include "trainer/checkpoint/incarnation.hpp"
#include "trainer/checkpoint/post_hoc.hpp"
#include "trainer/checkpoint/stored_model.hpp"
#include "trainer/optimize/adam_ema.hpp"
#include "trainer/optimize/gradient_norm.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

/// What `call` throws as CheckpointError says; fails the test if it throws nothing.
template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const CheckpointError& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

CheckpointOrigin origin_of(const EmaConfig& ema) {
  return {.config = "[run]\nseed = 0\n",
          .dataset_fingerprint = "f",
          .image_shape = {1, 8, 8},
          .sample_order = "order",
          .ema_decays = ema.decays,
          .power_sigmas = ema.power_sigmas};
}

/// A training of one parameter by made-up gradients, with snapshots and a checkpoint at its end.
class SmallRun {
 public:
  static constexpr std::int64_t kUpdates = 800;

  SmallRun(fs::path folder, EmaConfig ema)
      : paths_(std::move(folder)),
        ema_(std::move(ema)),
        state_{.arena = ParameterArena({{.name = "w", .shape = {40, 5}}}, ema_.decays.size() + ema_.power_sigmas.size(),
                                       /*seed=*/3, at::kCPU),
               .progress = {},
               .losses = {},
               .loss_history = LossHistory()} {
    fs::create_directories(paths_.root());
    const Incarnation incarnation = Incarnation::begin(paths_, alone_);
    CheckpointWriter writer(state_, shards_, alone_, incarnation, {});
    const AdamEma adam({.lr = 3e-3, .warmup_steps = 0}, ema_, kUpdates);
    Progress& progress = state_.progress;
    while (progress.step < kUpdates) {
      state_.arena.gradients().copy_(
          at::arange(state_.arena.plan().size(), at::kFloat).mul(0.37 * static_cast<double>(progress.step)).sin());
      adam.update(state_.arena, gradient_norm(state_.arena.gradients()), progress.step++, progress.updates++);
      if (ema_.snapshot_every > 0 && progress.step % ema_.snapshot_every == 0)
        publish(writer, &CheckpointWriter::begin_snapshot, paths_.snapshots());
    }
    publish(writer, &CheckpointWriter::begin_checkpoint, paths_.checkpoints());
  }

  const RunPaths& paths() const { return paths_; }
  at::Tensor weights(const std::string& choice) const {
    return load_model(paths_.root(), parse_weights_choice(choice)).weights.at("w");
  }

 private:
  void publish(CheckpointWriter& writer, void (CheckpointWriter::*begin)(const CheckpointWriter::Order&),
               const fs::path& parent) {
    (writer.*begin)({.parent = parent, .origin = origin_of(ema_), .resumed_from = ""});
    EXPECT_TRUE(writer.finish()->published);
  }

  RunPaths paths_;
  EmaConfig ema_;
  TrainingState state_;
  comm::LocalCommunicator alone_;
  ShardGather shards_{state_.arena, alone_, nullptr};
};

const EmaConfig kTwoWidths{.decays = {0.9}, .power_sigmas = {0.05, 0.10}, .snapshot_every = 40};

fs::path snapshot_path(const SmallRun& run, std::int64_t step) {
  return checkpoint_path(run.paths().snapshots(), {.step = step});
}

TEST(Snapshots, GiveAnyWidthAsIfItHadBeenTracked) {
  const test::TemporaryFolder folder;
  const SmallRun run(folder.path() / "run", kTwoWidths);
  const SmallRun direct(folder.path() / "direct", {.decays = {0.9}, .power_sigmas = {0.075, 0.13}});
  ASSERT_TRUE(at::equal(run.weights("raw"), direct.weights("raw")));
  for (const auto& [width, name] : {std::pair{"0.075", "ema-1"}, {"0.13", "ema-2"}}) {
    const at::Tensor expected = direct.weights(name);
    const at::Tensor found = run.weights(std::string("posthoc-") + width);
    EXPECT_EQ(found.scalar_type(), at::kFloat);
    const double moved = (expected - run.weights("raw")).norm().item<double>();
    EXPECT_GT(moved, 1e-3 * expected.norm().item<double>());
    EXPECT_LT((found - expected).norm().item<double>(), 3e-4 * moved) << width;
  }
  // A width that is stored is what is stored, but for the last bits.
  EXPECT_LT((run.weights("posthoc-0.05") - run.weights("ema-1")).abs().max().item<double>(), 1e-6);
}

TEST(Snapshots, OfALaterTimeHaveNoPartInACheckpoint) {
  const test::TemporaryFolder folder;
  const SmallRun run(folder.path() / "run", kTwoWidths);
  const at::Tensor before = run.weights("posthoc-0.13");
  // As a checkpoint from before them would find them: every later one is garbage.
  for (const std::int64_t step : {SmallRun::kUpdates + 40, SmallRun::kUpdates + 80}) {
    const fs::path later = snapshot_path(run, step);
    fs::copy(snapshot_path(run, 400), later, fs::copy_options::recursive);
    CheckpointManifest manifest = read_manifest(later, Contents::snapshot);
    manifest.progress.step = manifest.progress.updates = step;
    std::ofstream(later / CheckpointManifest::kFileName) << to_json(manifest);
  }
  EXPECT_TRUE(at::equal(run.weights("posthoc-0.13"), before));
}

TEST(Snapshots, BeyondTheStepOfAResumeGo) {
  const test::TemporaryFolder folder;
  const SmallRun run(folder.path(), {.decays = {0.9}, .power_sigmas = {0.05}, .snapshot_every = 200});
  fs::create_directories(unfinished(snapshot_path(run, 900)));
  discard_snapshots_after(run.paths().snapshots(), 400);
  std::vector<std::string> left;
  for (const auto& entry : fs::directory_iterator(run.paths().snapshots()))
    left.push_back(entry.path().filename().string());
  EXPECT_THAT(left, testing::UnorderedElementsAre("step-00000200", "step-00000400"));
  discard_snapshots_after(folder.path() / "none", 0);
}

TEST(Snapshots, AreNoCheckpoints) {
  const test::TemporaryFolder folder;
  const SmallRun run(folder.path(), {.decays = {0.9}, .power_sigmas = {0.05}, .snapshot_every = 400});
  const fs::path snapshot = snapshot_path(run, 400);
  EXPECT_THAT(refusal([&] { load_model(snapshot, RawWeights{}); }), HasSubstr("is of a snapshot of averages"));
  EXPECT_EQ(verify_checkpoint(snapshot, Contents::snapshot).progress.updates, 400);
}

TEST(Snapshots, ThatAreDamagedAreNamed) {
  const test::TemporaryFolder folder;
  const SmallRun run(folder.path(), kTwoWidths);
  const fs::path damaged = snapshot_path(run, 720) / "ema-2.safetensors";
  fs::resize_file(damaged, fs::file_size(damaged) - 4);
  EXPECT_THAT(refusal([&] { run.weights("posthoc-0.13"); }),
              AllOf(HasSubstr(damaged.string()), HasSubstr("move it away")));
  fs::rename(damaged.parent_path(), damaged.parent_path().string() + ".damaged");
  EXPECT_EQ(run.weights("posthoc-0.13").numel(), 200);
}

TEST(Weights, ThatAreNotThereAreRefusedWithWhatThereIs) {
  const test::TemporaryFolder folder;
  const SmallRun run(folder.path() / "run", kTwoWidths);
  const SmallRun sparse(folder.path() / "sparse", {.decays = {0.9}, .power_sigmas = {0.05}});
  const SmallRun plain(folder.path() / "plain", {.decays = {0.9}});
  EXPECT_THAT(
      refusal([&] { run.weights("ema-3"); }),
      AllOf(HasSubstr("ema-0 (EMA 0.9)"), HasSubstr("ema-1 (power EMA 0.05)"), HasSubstr("ema-2 (power EMA 0.1)")));
  EXPECT_THAT(refusal([&] { run.weights("posthoc-0.005"); }),
              AllOf(HasSubstr("19 snapshots"), HasSubstr("0.05, 0.1"), HasSubstr("relative residual 0.")));
  EXPECT_THAT(refusal([&] { sparse.weights("posthoc-0.1"); }), HasSubstr("0 snapshots"));
  EXPECT_THAT(refusal([&] { plain.weights("posthoc-0.1"); }), HasSubstr("ema.power_sigmas"));
}

TEST(Weights, AreNamedByWhatTheyAre) {
  const CheckpointOrigin origin = origin_of(kTwoWidths);
  for (const auto& [text, name] : {std::pair{"raw", "raw"},
                                   {"ema", "EMA 0.9"},
                                   {"ema-0", "EMA 0.9"},
                                   {"ema-2", "power EMA 0.1"},
                                   {"posthoc-0.13", "post-hoc EMA 0.13"}})
    EXPECT_EQ(name_of(parse_weights_choice(text), origin), name);
  for (const char* text : {"", "best", "EMA", "ema-", "ema--1", "ema-1x", "ema 1", "posthoc", "posthoc-", "posthoc-x",
                           "posthoc-0.13x", "posthoc-0", "posthoc--0.1", "posthoc-0.29", "posthoc-nan"})
    EXPECT_THROW(parse_weights_choice(text), std::invalid_argument) << text;
}

}  // namespace
}  // namespace perrin::trainer
