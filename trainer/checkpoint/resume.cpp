#include "trainer/checkpoint/resume.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <array>
#include <bit>
#include <cstring>

#include "data/sha256.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/deadlines.hpp"

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
  if (stored.ema_decays != origin.ema_decays)
    throw CheckpointError(folder, "tracks other EMAs; give the ema.decays of this run, or another run.directory");
}

/// Out of the way of the checkpoint that will be made at the same step again, and kept for whoever wants to know what
/// happened.
void quarantine(const fs::path& folder) {
  const fs::path aside = folder.string() + ".damaged";
  fs::remove_all(aside);
  fs::rename(folder, aside);
}

/// The newest checkpoint that verifies. Damaged ones before it are named and set aside; if none is whole, all stay
/// where they are, so that no start takes the run for a new one.
std::optional<std::pair<fs::path, CheckpointManifest>> newest_whole(const fs::path& checkpoints) {
  std::vector<fs::path> damaged;
  for (const fs::path& folder : list_checkpoints(checkpoints)) {
    try {
      CheckpointManifest manifest = verify_checkpoint(folder);
      for (const fs::path& bad : damaged) quarantine(bad);
      return std::pair{folder, std::move(manifest)};
    } catch (const DamagedCheckpoint& error) {
      spdlog::warn("{}; trying the checkpoint before it", error.what());
      damaged.push_back(folder);
    }
  }
  if (!damaged.empty())
    throw CheckpointError(
        checkpoints,
        fmt::format("all {} checkpoints are damaged; restore one from a backup, or remove the folder to begin anew",
                    damaged.size()));
  return std::nullopt;
}

void load_into(const fs::path& folder, TrainingState& state) {
  for (const auto& [name, flat] : state.arena.persistent()) {
    const auto tensors = read_checkpoint_tensors(folder, name + ".safetensors");
    for (const auto& range : state.arena.layout().ranges()) {
      const auto tensor = tensors.find(range.name);
      if (tensor == tensors.end() || tensor->second.sizes() != at::IntArrayRef(range.shape))
        throw CheckpointError(folder / (name + ".safetensors"), "lacks parameter '" + range.name + "' in its shape");
      state.arena.layout().view(flat, range).copy_(tensor->second);
    }
  }
}

void broadcast_from_root(at::Tensor flat, comm::Communicator& control) {
  const at::Tensor on_host = flat.cpu();
  control.broadcast(std::span(on_host.mutable_data_ptr<float>(), static_cast<std::size_t>(on_host.numel())), 0).wait();
  if (!flat.is_cpu()) flat.copy_(on_host);
}

/// What else than the buffers the ranks must agree on.
struct Header {
  std::int64_t found = 0, step = 0, position = 0, updates = 0, loss_count = 0, loss_sum_bits = 0, metrics_bytes = 0;
};

}  // namespace

std::optional<ResumePoint> resume_newest(const fs::path& checkpoints, const CheckpointOrigin& origin,
                                         TrainingState& state, comm::Communicator& control) {
  const at::NoGradGuard no_grad;
  Header header;
  fs::path folder;
  if (control.rank() == 0) {
    if (const auto newest = newest_whole(checkpoints)) {
      const CheckpointManifest& manifest = newest->second;
      folder = newest->first;
      require_same_run(folder, manifest, origin, state.arena.layout());
      load_into(folder, state);
      header = {1,
                manifest.progress.step,
                static_cast<std::int64_t>(manifest.progress.position),
                manifest.progress.updates,
                manifest.losses.count,
                std::bit_cast<std::int64_t>(manifest.losses.sum),
                static_cast<std::int64_t>(manifest.metrics_bytes)};
    }
  }
  auto words = std::bit_cast<std::array<std::int64_t, sizeof(Header) / sizeof(std::int64_t)>>(header);
  control.broadcast(std::span<std::int64_t>(words), 0).wait(kLongWork);  // rank 0 reads and verifies first
  header = std::bit_cast<Header>(words);
  if (header.found == 0) return std::nullopt;

  for (const auto& [name, flat] : state.arena.persistent()) broadcast_from_root(flat, control);
  state.progress = {header.step, static_cast<std::uint64_t>(header.position), header.updates};
  state.losses.sum = std::bit_cast<double>(header.loss_sum_bits);
  state.losses.count = header.loss_count;
  return ResumePoint{checkpoint_path(checkpoints, header.step), static_cast<std::uint64_t>(header.metrics_bytes)};
}

std::string hash_of_state(const TrainingState& state) {
  data::Sha256 hash;
  for (const auto& [name, flat] : state.arena.persistent()) {
    const at::Tensor on_host = flat.cpu();
    hash.update(std::as_bytes(std::span(on_host.const_data_ptr<float>(), static_cast<std::size_t>(on_host.numel()))));
  }
  return hash.hex();
}

}  // namespace perrin::trainer
