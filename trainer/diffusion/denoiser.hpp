#pragma once

#include <functional>
#include <memory>

#include "trainer/config.hpp"
#include "trainer/diffusion/parameterization.hpp"

namespace perrin::trainer {

/// A model as samplers and the variational bound see it, whatever its network predicts.
/// @param x  [N, C, H, W] at the given noise level
using Denoiser = std::function<Prediction(const at::Tensor& x, const NoiseLevel& level)>;

/// Reads a network's output by `prediction`. Levels off the discrete process (alpha^2 + sigma^2 != 1, or t = -1) are
/// scaled onto it and take the nearest timestep; a continuous (edm) network takes every level.
/// @param trained  the schedule of the network's timesteps
Denoiser make_denoiser(Network network, PredictionType prediction, double sigma_data,
                       std::shared_ptr<const NoiseSchedule> trained);

/// Classifier-free guidance: unconditional + scale (conditional - unconditional) where sigma / alpha is in
/// (sigma_min, sigma_max], conditional elsewhere. Source: Ho & Salimans 2022, eq. 6 with scale = 1 + w; interval:
/// Kynkaanniemi et al. 2024. The variance is the conditional network's.
/// @param sigma_max  0: no limit
Denoiser with_guidance(Denoiser conditional, Denoiser unconditional, double scale, double sigma_min, double sigma_max);

/// Keeps x0 in the range of images, and eps such that both still explain x (diffusers: use_clipped_model_output).
///   fixed    clipped to [-1, 1] (Ho et al. 2020's code)
///   dynamic  divided by the `percentile` of |x0| of its image where that is above 1, after clipping to it (Saharia et
///            al. 2022, section 2.3)
Denoiser with_clipped_x0(Denoiser denoiser, ClipX0 clip, double percentile);

}  // namespace perrin::trainer
