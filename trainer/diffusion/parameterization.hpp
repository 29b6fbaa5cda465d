#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>

#include "trainer/config.hpp"
#include "trainer/diffusion/schedule.hpp"

/// What the output F of a network says about the clean image, for every PredictionType by one formula.
namespace perrin::trainer {

/// x = alpha x_0 + sigma eps, a draw of q(x_t | x_0) when eps ~ N(0, 1). Source: Ho et al. 2020, eq. 4.
/// @param x_0, eps  [N, C, H, W]   @param levels  [N]   @return [N, C, H, W], type of x_0
/// @throws std::invalid_argument when the sizes differ
at::Tensor q_sample(const at::Tensor& x_0, const at::Tensor& eps, std::span<const NoiseLevel> levels);

/// The network as it is: F [N, C or 2 C, H, W] for its input [N, C, H, W] and condition [N], which is the timestep
/// (int64), or c_noise (floating) for PredictionType::edm. Labels are its own affair.
using Network = std::function<at::Tensor(const at::Tensor& input, const at::Tensor& condition)>;

/// x_0 = c_skip x + c_out F(c_in x, c_noise), for x = alpha x_0 + sigma eps. Source: Karras et al. 2022, eq. 7 and
/// table 1; with alpha^2 + sigma^2 = 1 the rows of epsilon (1/alpha, -sigma/alpha), x0 (0, 1) and v (alpha, -sigma),
/// whose c_in is 1, are those of Ho et al. 2020 and Salimans & Ho 2022.
struct Preconditioning {
  double c_skip = 0, c_out = 1, c_in = 1;
};
Preconditioning precondition(PredictionType prediction, const NoiseLevel& level, double sigma_data);

/// c_in x.
/// @param x  [N, C, H, W]   @param levels  [N]
at::Tensor network_input(PredictionType prediction, const at::Tensor& x, std::span<const NoiseLevel> levels,
                         double sigma_data);

/// c_noise of PredictionType::edm: ln(sigma / alpha) / 4.
double c_noise(const NoiseLevel& level);

/// The F that a perfect network gives, of_x0 x_0 + of_eps eps: eps, x_0, alpha eps - sigma x_0, or
/// (x_0 - c_skip x) / c_out.
struct Target {
  double of_x0 = 0, of_eps = 0;
};
Target target_of(PredictionType prediction, const NoiseLevel& level, double sigma_data);

/// The same of a batch.
/// @param x_0, eps  [N, C, H, W]   @param levels  [N]   @return [N, C, H, W]
at::Tensor network_target(PredictionType prediction, const at::Tensor& x_0, const at::Tensor& eps,
                          std::span<const NoiseLevel> levels, double sigma_data);

/// What a model says about x at one noise level.
struct Prediction {
  at::Tensor x0;                 ///< [N, C, H, W]
  at::Tensor eps;                ///< [N, C, H, W], with which x0 explains x: x = alpha x0 + sigma eps
  at::Tensor variance_fraction;  ///< [N, C, H, W] in about [0, 1] of the way from log beta~ to log beta; undefined
                                 ///< unless learned (Nichol & Dhariwal 2021, eq. 15)
};

/// Splits a network's output into mean and variance channels, and reads it. One level for each image.
/// @param x  [N, C, H, W]   @param output  F, [N, C or 2 C, H, W]   @param levels  [N]
Prediction read_output(PredictionType prediction, const at::Tensor& x, const at::Tensor& output,
                       std::span<const NoiseLevel> levels, double sigma_data);

/// One number for each image, as [N, 1, 1, 1] of the type and on the device of `like`.
at::Tensor per_image(std::span<const double> values, const at::Tensor& like);

/// The same, as a function of each image's level.
at::Tensor per_level(std::span<const NoiseLevel> levels, const at::Tensor& like,
                     const std::function<double(const NoiseLevel&)>& number);

/// The timesteps of discrete levels. @return [N] int64 on the device of `like`
at::Tensor timesteps_of(std::span<const NoiseLevel> levels, const at::Tensor& like);

}  // namespace perrin::trainer
