#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "trainer/config.hpp"
#include "trainer/diffusion/noised_images.hpp"
#include "trainer/diffusion/parameterization.hpp"
#include "trainer/diffusion/process.hpp"

namespace perrin::trainer {

/// What training minimises, for each image; the mean over a batch of uniform noise levels is the objective.
struct ObjectiveTerms {
  at::Tensor loss;    ///< [N]
  at::Tensor simple;  ///< [N] L_simple, unweighted
  at::Tensor bound;   ///< [N] bits/dim; undefined where the loss has none of it
};

/// The objectives of DDPM, improved DDPM and EDM over one interface.
///   simple  mean over C, H, W of (F - target)^2 (Ho et al. 2020, eq. 14, for epsilon; for edm the weights of Karras et
///           al. 2022, table 1, cancel). With min_snr_gamma, times min(SNR, gamma) c_out^2, which weighs the error of
///           x_0 by min(SNR, gamma) (Hang et al. 2023, eq. 9)
///   vlb     T times the term of the drawn timestep, in bits/dim: its mean is the bound without L_T
///   hybrid  simple + vlb_weight * vlb, where vlb does not reach the mean (Nichol & Dhariwal 2021, eq. 16)
class Objective {
 public:
  Objective(const Config& config, const DiffusionProcess& process);

  /// F: the network's output for x, with the input scaled and the condition chosen as its parameterisation asks.
  at::Tensor network_output(const Network& network, const at::Tensor& x, std::span<const NoiseLevel> levels) const;
  /// [N] L_simple, unweighted.
  at::Tensor simple(const at::Tensor& F, const at::Tensor& x_0, const at::Tensor& eps,
                    std::span<const NoiseLevel> levels) const;
  /// [N] T times the term of each image's timestep in bits/dim. Discrete networks only.
  at::Tensor bound(const at::Tensor& F, const at::Tensor& x_t, const at::Tensor& x_0, const at::Tensor& eps,
                   std::span<const NoiseLevel> levels) const;

  /// Noise on images as terms() takes them.
  /// @param x_0, eps  [N, C, H, W]   @param levels  [N]
  NoisedImages noised(const at::Tensor& x_0, const at::Tensor& eps, std::span<const NoiseLevel> levels) const;
  /// The same of images as a dataset gives them: L_simple on the CPU needs no more than noise_pixels makes.
  /// @param pixels, mirrored, noise, positions, type  as noise_pixels has them; pixels and mirrored on the device
  NoisedImages noised(const at::Tensor& pixels, const at::Tensor& mirrored, const Stream& noise,
                      std::span<const std::uint64_t> positions, std::span<const NoiseLevel> levels,
                      at::ScalarType type) const;

  /// @param levels  [N]
  ObjectiveTerms terms(const Network& network, const NoisedImages& images, std::span<const NoiseLevel> levels) const;

 private:
  /// What the network is told beside its input.
  at::Tensor condition(std::span<const NoiseLevel> levels, const at::Tensor& like) const;

  ObjectiveConfig objective_;
  PredictionType prediction_;
  VarianceType variance_;
  double sigma_data_;
  const DiffusionProcess& process_;
};

}  // namespace perrin::trainer
