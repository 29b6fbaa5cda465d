#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "trainer/checkpoint/manifest.hpp"

namespace perrin::trainer {

/// The snapshots of the run that a checkpoint belongs to; empty for a checkpoint outside of a run.
/// @throws CheckpointError if the folder exists and cannot be read
std::vector<std::filesystem::path> snapshots_beside(const std::filesystem::path& checkpoint);

/// An average of the weights of any relative width, as a sum of stored power-function averages: those of the
/// checkpoint itself and of the snapshots before it. Post-hoc EMA, Karras et al. 2024, section 3.2.
class PostHocEma {
 public:
  /// Looks at manifests alone.
  /// @param checkpoint the average is the one that a training with this width would hold here
  /// @throws CheckpointError if what is stored cannot be combined to this profile, with the relative residual;
  /// std::invalid_argument for a width that no power-function average has
  PostHocEma(const std::filesystem::path& checkpoint, const CheckpointManifest& manifest, double sigma_rel);

  /// Distance of the profile from the one asked for, in units of the latter's norm.
  double residual() const { return residual_; }

  /// Reads and verifies the snapshots, reads the checkpoint, and sums in double precision.
  /// @return fp32 on the CPU, by parameter name. @throws CheckpointError
  std::map<std::string, at::Tensor> sum() const;

 private:
  struct Term {
    std::filesystem::path folder;
    Contents contents;
    std::string buffer;
    double weight;
  };
  std::vector<Term> terms_;
  double residual_ = 0;
};

}  // namespace perrin::trainer
