#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/diffusion/process.hpp"

/// The reverse process: from noise to images. Every function works in the type of x_t, float32 or float64.
namespace perrin::trainer {

/// The network seen by a sampler: eps(x_t, t) for x_t [N, C, H, W] and t [N] int64.
using EpsilonModel = std::function<at::Tensor(const at::Tensor& x_t, const at::Tensor& t)>;

/// Standard normals for the step that leaves timestep t, shaped like x_t.
using StepNoise = std::function<at::Tensor(std::int64_t t)>;

/// Whether predictions of x_0 are clipped to [-1, 1], where images live.
enum class ClipX0 { yes, no };

/// One step of p(x_{t-1} | x_t): the posterior mean at the predicted x_0, plus sqrt(reverse_variance) z; z is not used
/// at t = 0. Source: Ho et al. 2020, algorithm 2, with x_0 clipped as in the authors' code.
/// @return x_{t-1}
at::Tensor ancestral_step(const NoiseSchedule& schedule, const at::Tensor& x_t, const at::Tensor& eps, std::int64_t t,
                          VarianceType variance, const at::Tensor& z, ClipX0 clip);

/// One DDIM step from timestep t to t_prev (-1: to the clean image). Source: Song et al. 2021, eq. 12 and 16.
/// Where x_0 is clipped, eps is derived anew from it, so that both still explain x_t (diffusers:
/// use_clipped_model_output = True).
/// @param eta  0: deterministic, z is not used; 1: as noisy as fixed_small ancestral sampling
/// @return x_{t_prev}
at::Tensor ddim_step(const NoiseSchedule& schedule, const at::Tensor& x_t, const at::Tensor& eps, std::int64_t t,
                     std::int64_t t_prev, double eta, const at::Tensor& z, ClipX0 clip);

/// `steps` timesteps evenly from T - 1 down to 0, rounded ("linspace" spacing: unlike "leading" it begins where x_T is
/// pure noise).
/// @throws std::invalid_argument when steps is not in [1, T]
std::vector<std::int64_t> ddim_timesteps(std::int64_t timesteps, std::int64_t steps);

/// Runs the sampler of `config` from x_T to x_0.
/// @param x_T  [N, C, H, W] standard normals   @return x_0, like x_T
at::Tensor sample_from(const EpsilonModel& model, const NoiseSchedule& schedule, const SampleConfig& config,
                       VarianceType variance, at::Tensor x_T, const StepNoise& noise, ClipX0 clip);

/// Samples of the given indices: all noise is keyed by (config.seed, index, t), so an index is the same image in any
/// batch, on any rank.
/// @return x_0 [N, C, H, W] float32 in about [-1, 1], on the device
at::Tensor sample(const EpsilonModel& model, const DiffusionProcess& process, const SampleConfig& config,
                  VarianceType variance, std::span<const std::uint64_t> indices, const data::ImageShape& shape,
                  at::Device device);

}  // namespace perrin::trainer
