#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "trainer/diffusion/denoiser.hpp"
#include "trainer/diffusion/schedule.hpp"

/// The reverse process: from noise to images. Every function works in the type of x, float32 or float64, and knows
/// nothing of networks: it asks a Denoiser.
namespace perrin::trainer {

/// Standard normals for one step of a sampler, shaped like x. The step is named by the timestep it leaves, or, in
/// Heun's sampler, by its number.
using StepNoise = std::function<at::Tensor(std::int64_t step)>;

/// One step of p(x_{t-1} | x_t): the posterior mean at the predicted x_0, plus the reverse process's deviation times z,
/// which is not used at t = 0. Source: Ho et al. 2020, algorithm 2, with x_0 clipped as in the authors' code.
/// @param t  of `schedule`, which may be a respaced one   @return x_{t-1}
at::Tensor ancestral_step(const NoiseSchedule& schedule, const at::Tensor& x_t, const Prediction& prediction,
                          std::int64_t t, VarianceType variance, const at::Tensor& z);

/// One DDIM step between two levels of the discrete process, from what was predicted at `from`. Source: Song et al.
/// 2021, eq. 12 and 16.
/// @param eta  0: deterministic, z is not used; 1: as noisy as fixed_small ancestral sampling
/// @param to  {1, 0}: the clean image   @return x at `to`
at::Tensor ddim_step(const Prediction& prediction, const NoiseLevel& from, const NoiseLevel& to, double eta,
                     const at::Tensor& z);

/// One step of DPM-Solver++(2M). Source: Lu et al. 2022 ("DPM-Solver++"), algorithm 2; with an undefined `previous_x0`,
/// or to the clean image, the first-order step.
/// @param previous_x0  predicted at `previous`, the level before `from`
at::Tensor dpm_solver_step(const at::Tensor& x, const at::Tensor& x0, const NoiseLevel& from, const NoiseLevel& to,
                           const at::Tensor& previous_x0, const NoiseLevel& previous);

/// One step of Heun's second-order method on dx/dsigma = (x - D(x)) / sigma, for x = x_0 + sigma eps; Euler's to sigma
/// 0. Source: Karras et al. 2022, algorithm 1, lines 4 to 8.
at::Tensor heun_step(const Denoiser& denoiser, const at::Tensor& x, double sigma, double next_sigma);

/// Timesteps that `steps` steps visit, descending and different.
///   leading   i floor(T / S): OpenAI's ddimS; never sees t = T - 1
///   linspace  evenly from T - 1 to 0, rounded
///   trailing  T - 1 down in strides of T / S, rounded (Lin et al. 2024)
///   quad      (i / (S - 1))^2 0.8 T, cut to an integer: DDIM's for CIFAR-10; timesteps that coincide are visited once
///   log_snr   nearest to evenly spaced log SNR (Lu et al. 2022); timesteps that coincide are visited once
/// @param steps  0: all   @throws std::invalid_argument when steps is not in [0, T], or the spacing is automatic
std::vector<std::int64_t> spaced_timesteps(const NoiseSchedule& schedule, std::int64_t steps, Spacing spacing);

/// Heun's noise levels, sigma_max to sigma_min, then 0. Source: Karras et al. 2022, eq. 5.
std::vector<double> heun_sigmas(std::int64_t steps, double sigma_min, double sigma_max, double rho);

/// The spacing that `automatic` stands for.
Spacing resolved_spacing(const SampleConfig& config);

/// Runs the sampler of `config` from standard normals to x_0.
/// @param schedule  the discrete process; Heun's sampler takes its noise levels from `config` alone
/// @param normals  [N, C, H, W]   @return x_0, like them
at::Tensor sample_from(const Denoiser& denoiser, const NoiseSchedule& schedule, const SampleConfig& config,
                       VarianceType variance, const at::Tensor& normals, const StepNoise& noise);

}  // namespace perrin::trainer
