#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>

#include "trainer/config.hpp"
#include "trainer/diffusion/denoiser.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {

/// The network without dropout, told these labels. The UNet must outlive it.
/// @param labels  [N] int64 on the network's device, -1: none; undefined for an unconditional network
Network network_of(const UNet& model, at::Tensor labels);

/// What the model of a run says about x, unguided and unclipped.
Denoiser model_denoiser(const UNet& model, const Config& config, std::shared_ptr<const NoiseSchedule> schedule,
                        at::Tensor labels);

/// The same with the guidance and clipping of config.sample.
Denoiser sampling_denoiser(const UNet& model, const Config& config, std::shared_ptr<const NoiseSchedule> schedule,
                           at::Tensor labels);

/// Classes of the images of these indices: config.sample.classes repeated, or every class in turn.
/// @return [N] int64 on `device`; undefined for an unconditional model
at::Tensor sampling_labels(const Config& config, std::span<const std::uint64_t> indices, at::Device device);

}  // namespace perrin::trainer
