#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "comm/communicator.hpp"
#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/diffusion/process.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {

/// Draws config.rows * config.columns images, each keyed by (config.seed, its index): every rank its share, in whole
/// batches of config.batch_size, so that neither the number of ranks nor their shares show in the images. Collective.
/// @return uint8 [rows * columns, C, H, W] on the CPU, the same on every rank
at::Tensor sample_images(const UNet& model, const DiffusionProcess& process, const SampleConfig& config,
                         VarianceType variance, const data::ImageShape& shape, comm::Communicator& control,
                         at::Device device);

}  // namespace perrin::trainer
