#include "trainer/checkpoint/post_hoc.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_folder.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/optimize/power_ema.hpp"
#include "trainer/run_folder.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

/// Of the profile, relative. Measured on random walks of constant and of falling steps, 0.1 is about 1 % of the
/// weights' norm, but 7 to 30 % of the way from the last weights to the average: no longer the one that was asked for.
constexpr double kMostResidual = 0.1;

/// Adds weight * tensors to the sums, which begin as those of the first call.
void add(std::map<std::string, at::Tensor>& sums, const std::map<std::string, at::Tensor>& tensors, double weight,
         const fs::path& file) {
  for (const auto& [name, tensor] : tensors) {
    const auto [sum, first] = sums.try_emplace(name);
    if (first) sum->second = at::zeros(tensor.sizes(), at::kDouble);
    if (sum->second.sizes() != tensor.sizes())
      throw CheckpointError(file, "holds '" + name + "' in another shape than the other averages of the run");
    sum->second.add_(tensor, weight);
  }
}

}  // namespace

std::vector<fs::path> snapshots_beside(const fs::path& checkpoint) {
  fs::path folder = fs::absolute(checkpoint).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();  // "step-00001000/"
  const RunPaths run(folder.parent_path().parent_path());
  return folder.parent_path() == run.checkpoints() ? list_checkpoints(run.snapshots()) : std::vector<fs::path>{};
}

PostHocEma::PostHocEma(const fs::path& checkpoint, const CheckpointManifest& manifest, double sigma_rel) {
  std::vector<PowerProfile> profiles;
  const auto add_terms = [&](const fs::path& folder, const CheckpointManifest& stored) {
    for (std::size_t i = 0; i < stored.origin.power_sigmas.size(); ++i) {
      terms_.push_back({folder, stored.contents, stored.origin.power_average(i), 0});
      profiles.push_back({stored.progress.updates, power_ema_gamma(stored.origin.power_sigmas[i])});
    }
  };
  const PowerProfile target{manifest.progress.updates, power_ema_gamma(sigma_rel)};
  if (manifest.origin.power_sigmas.empty() || target.updates == 0)
    throw CheckpointError(checkpoint,
                          "has no power-function averages to reconstruct from: train with ema.power_sigmas and "
                          "ema.snapshot_every");
  add_terms(checkpoint, manifest);
  std::size_t snapshots = 0;
  for (const fs::path& folder : snapshots_beside(checkpoint)) {
    const CheckpointManifest stored = read_manifest(folder, Contents::snapshot);
    if (stored.progress.updates >= target.updates) continue;  // the checkpoint's own, or later ones
    if (stored.layout_sha256 != manifest.layout_sha256)
      throw CheckpointError(folder, "holds a model of another architecture than " + checkpoint.string());
    add_terms(folder, stored);
    ++snapshots;
  }

  ProfileFit fit = fit_profile(profiles, target);
  residual_ = fit.residual;
  if (!(residual_ <= kMostResidual))
    throw CheckpointError(
        checkpoint,
        fmt::format("has no stored averages that add up to the relative width {}: {} snapshots before it, averages {}, "
                    "relative residual {:.2g} (at most {}); ask for a width nearer to theirs, or train with more "
                    "snapshots (ema.snapshot_every) or widths on both sides (ema.power_sigmas)",
                    sigma_rel, snapshots, fmt::join(manifest.origin.power_sigmas, ", "), residual_, kMostResidual));
  for (std::size_t i = 0; i < terms_.size(); ++i) terms_[i].weight = fit.weights[i];
}

std::map<std::string, at::Tensor> PostHocEma::sum() const {
  std::map<std::string, at::Tensor> sums;
  fs::path verified;
  CheckpointManifest manifest;
  for (const Term& term : terms_) {
    if (term.folder != verified) {
      // The caller has verified the checkpoint itself.
      manifest = term.contents == Contents::snapshot ? verify_checkpoint(term.folder, term.contents)
                                                     : read_manifest(term.folder);
    }
    verified = term.folder;
    add(sums, read_checkpoint_buffer(term.folder, manifest, term.buffer), term.weight, term.folder / term.buffer);
  }
  for (auto& [name, tensor] : sums) tensor = tensor.to(at::kFloat);
  return sums;
}

}  // namespace perrin::trainer
