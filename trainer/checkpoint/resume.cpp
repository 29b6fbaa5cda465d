#include "trainer/checkpoint/resume.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <bit>
#include <span>
#include <stdexcept>
#include <vector>

#include "data/sha256.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/deadlines.hpp"
#include "trainer/same_on_all_ranks.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

void require_same_run(const fs::path& folder, const CheckpointManifest& manifest, const CheckpointOrigin& origin,
                      const ParameterLayout& layout) {
  const CheckpointOrigin& stored = manifest.origin;
  if (stored.dataset_fingerprint != origin.dataset_fingerprint)
    throw CheckpointError(
        folder,
        fmt::format("was trained on another dataset (fingerprint {}, data.train has {}); give the dataset of this "
                    "run, or another run.directory",
                    stored.dataset_fingerprint, origin.dataset_fingerprint));
  if (stored.sample_order != origin.sample_order)
    throw CheckpointError(
        folder,
        fmt::format("was trained in another order of samples ({}, this program has {}); use the perrin that wrote it",
                    stored.sample_order, origin.sample_order));
  if (stored.image_shape != origin.image_shape || manifest.layout_sha256 != data::sha256_hex(layout.description()))
    throw CheckpointError(
        folder, "holds a model of another architecture; give the [model] of this run, or another run.directory");
  if (stored.ema_decays != origin.ema_decays || stored.power_sigmas != origin.power_sigmas)
    throw CheckpointError(folder, fmt::format("tracks other averages ({}); give the ema.decays and ema.power_sigmas of "
                                              "this run, or another run.directory",
                                              fmt::join(stored.averages(), ", ")));
}

/// Out of the way of the checkpoint that will be made at the same step again, and kept for whoever wants to know what
/// happened.
void quarantine(const fs::path& folder) {
  const fs::path aside = folder.string() + ".damaged";
  fs::remove_all(aside);
  fs::rename(folder, aside);
}

/// @throws DamagedCheckpoint for a checkpoint under the name of another
void require_own_name(const fs::path& folder, const CheckpointManifest& manifest) {
  if (parse_checkpoint_name(folder) != CheckpointName{manifest.incarnation, manifest.progress.step})
    throw DamagedCheckpoint(folder, fmt::format("holds the checkpoint of step {} by incarnation {}: it was renamed",
                                                manifest.progress.step, manifest.incarnation));
}

struct WholeCheckpoint {
  fs::path folder;
  CheckpointManifest manifest;
};

/// The first one that verifies. Damaged ones before it are named and set aside; if none is whole, all stay where they
/// are, so that no start takes the run for a new one.
std::optional<WholeCheckpoint> first_whole(std::span<const fs::path> newest_first) {
  std::vector<fs::path> damaged;
  for (const fs::path& folder : newest_first) {
    try {
      CheckpointManifest manifest = verify_checkpoint(folder);
      require_own_name(folder, manifest);
      for (const fs::path& bad : damaged) quarantine(bad);
      return WholeCheckpoint{folder, std::move(manifest)};
    } catch (const DamagedCheckpoint& error) {
      spdlog::warn("{}; trying the checkpoint before it", error.what());
      damaged.push_back(folder);
    }
  }
  return std::nullopt;
}

/// A return to an earlier checkpoint writes that state again at once, in its own incarnation.
bool is_of_a_return(const CheckpointManifest& manifest) {
  const auto parent = parse_checkpoint_name(manifest.parent);
  return parent && parent->step == manifest.progress.step;
}

/// The checkpoint to go on from. What makes a run diverge may be in the newest one already, with every number in it
/// finite: one from which it has diverged twice gives way to one of an earlier step, where there is one.
std::optional<WholeCheckpoint> choose(const fs::path& checkpoints, ResumeReason reason) {
  const std::vector<fs::path> newest_first = list_checkpoints(checkpoints);
  auto newest = first_whole(newest_first);
  if (!newest && !newest_first.empty())
    throw CheckpointError(
        checkpoints,
        fmt::format("all {} checkpoints are damaged; restore one from a backup, or remove the folder to begin anew",
                    newest_first.size()));
  if (reason != ResumeReason::divergence || !newest || !is_of_a_return(newest->manifest)) return newest;
  std::vector<fs::path> earlier;
  for (auto folder = std::find(newest_first.begin(), newest_first.end(), newest->folder); folder != newest_first.end();
       ++folder)
    if (parse_checkpoint_name(*folder)->step < newest->manifest.progress.step) earlier.push_back(*folder);
  auto before = first_whole(earlier);
  if (!before) return newest;
  spdlog::warn("{}: the run has diverged from here before; an earlier checkpoint is taken", newest->folder.string());
  return before;
}

/// A buffer of a checkpoint as it lies in the arena. @return [size], on the CPU
at::Tensor read_buffer(const fs::path& folder, const CheckpointManifest& manifest, const std::string& buffer,
                       const ParameterLayout& layout, std::int64_t size) {
  const auto tensors = read_checkpoint_buffer(folder, manifest, buffer);
  const at::Tensor flat = at::zeros({size});
  for (const auto& range : layout.ranges()) {
    const auto tensor = tensors.find(range.name);
    if (tensor == tensors.end() || tensor->second.sizes() != at::IntArrayRef(range.shape))
      throw CheckpointError(folder, fmt::format("lacks parameter '{}' of {} in its shape", range.name, buffer));
    layout.view(flat, range).copy_(tensor->second);
  }
  return flat;
}

/// Fills the arena from a checkpoint that rank 0 sees: one buffer after the other is read, sent to all, and cut to what
/// a rank keeps of it.
void load_arena(const fs::path& folder, const CheckpointManifest& manifest, ParameterArena& arena,
                comm::Communicator& control) {
  const std::int64_t size = arena.plan().size();
  for (const PersistentBuffer& buffer : arena.persistent()) {
    const at::Tensor whole =
        control.rank() == 0 ? read_buffer(folder, manifest, buffer.name, arena.layout(), size) : at::empty({size});
    const std::span<float> values(whole.mutable_data_ptr<float>(), static_cast<std::size_t>(size));
    control.broadcast(values, 0).wait(kLongWork);  // rank 0 reads first
    if (buffer.is_state)
      arena.keep_own(whole, buffer.values);
    else
      buffer.values.copy_(whole);
  }
}

/// One of the two tensors of a loss history, which a checkpoint has for as many timesteps as the run.
template <class Number>
std::vector<Number> history_values(const fs::path& folder, const std::map<std::string, at::Tensor>& tensors,
                                   const std::string& name, at::ScalarType type, std::size_t size) {
  const auto tensor = tensors.find(name);
  if (tensor == tensors.end() || tensor->second.scalar_type() != type ||
      tensor->second.numel() != static_cast<std::int64_t>(size))
    throw CheckpointError(folder / kLossHistoryFile, "lacks '" + name + "' for the timesteps of this run");
  const Number* values = tensor->second.const_data_ptr<Number>();
  return {values, values + size};
}

LossHistory read_loss_history(const fs::path& folder, const LossHistory& like) {
  const auto tensors = read_checkpoint_tensors(folder, kLossHistoryFile);
  try {
    return {history_values<double>(folder, tensors, "losses", at::kDouble, like.losses().size()),
            history_values<std::int64_t>(folder, tensors, "counts", at::kLong, like.counts().size())};
  } catch (const std::invalid_argument& error) {
    throw CheckpointError(folder / kLossHistoryFile, error.what());
  }
}

void broadcast_from_root(LossHistory& history, comm::Communicator& control) {
  std::vector<double> losses = history.losses();
  std::vector<std::int64_t> counts = history.counts();
  control.broadcast(std::span(losses), 0).wait();
  control.broadcast(std::span(counts), 0).wait();
  history = {std::move(losses), std::move(counts)};
}

/// What else than the buffers the ranks must agree on.
struct Header {
  std::int64_t found = 0, incarnation = 0, metrics_bytes = 0;
  Progress progress;
  LossWindow losses;
};

}  // namespace

std::optional<ResumePoint> resume_newest(const fs::path& checkpoints, const CheckpointOrigin& origin,
                                         TrainingState& state, comm::Communicator& control, ResumeReason reason) {
  const at::NoGradGuard no_grad;
  Header header;
  fs::path folder;
  CheckpointManifest manifest;
  if (control.rank() == 0) {
    if (auto chosen = choose(checkpoints, reason)) {
      folder = std::move(chosen->folder);
      manifest = std::move(chosen->manifest);
      require_same_run(folder, manifest, origin, state.arena.layout());
      if (state.loss_history.timesteps() > 0) state.loss_history = read_loss_history(folder, state.loss_history);
      header = {.found = 1,
                .incarnation = parse_checkpoint_name(folder)->incarnation,
                .metrics_bytes = static_cast<std::int64_t>(manifest.metrics_bytes),
                .progress = manifest.progress,
                .losses = manifest.losses};
    }
  }
  auto words = std::bit_cast<std::array<std::int64_t, sizeof(Header) / sizeof(std::int64_t)>>(header);
  control.broadcast(std::span<std::int64_t>(words), 0).wait(kLongWork);  // rank 0 verifies first
  header = std::bit_cast<Header>(words);
  if (header.found == 0) return std::nullopt;

  load_arena(folder, manifest, state.arena, control);
  if (state.loss_history.timesteps() > 0) broadcast_from_root(state.loss_history, control);
  state.progress = header.progress;
  state.losses = header.losses;
  require_same_on_all_ranks(control, fingerprint_of_replicas(state),
                            "weights, Adam or EMA as read from the checkpoint");
  return ResumePoint{checkpoint_path(checkpoints, {header.incarnation, header.progress.step}),
                     static_cast<std::uint64_t>(header.metrics_bytes), std::move(manifest.origin.machine)};
}

std::string fingerprint_of_replicas(const TrainingState& state) {
  std::vector<at::Tensor> sums;
  for (const PersistentBuffer& buffer : state.arena.persistent())
    if (!buffer.is_state || !state.arena.plan().sharded()) sums.push_back(buffer.values.view(at::kLong).sum());
  std::string text;
  for (const at::Tensor& sum : sums)
    text += fmt::format("{:016x} ", static_cast<std::uint64_t>(sum.item<std::int64_t>()));
  const LossHistory& history = state.loss_history;
  text += data::Sha256()
              .update(std::as_bytes(std::span(history.losses())))
              .update(std::as_bytes(std::span(history.counts())))
              .hex();
  return text;
}

}  // namespace perrin::trainer
