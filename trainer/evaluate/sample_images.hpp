#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "comm/communicator.hpp"
#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {

/// Draws rows * columns images of config.sample, each keyed by (sample.seed, its index): every rank its share, in whole
/// batches of sample.batch_size, so that neither the number of ranks nor their shares show in the images. Collective.
/// @return uint8 [rows * columns, C, H, W] on the CPU, the same on every rank
at::Tensor sample_images(const UNet& model, const Config& config, const data::ImageShape& shape,
                         comm::Communicator& control, at::Device device);

}  // namespace perrin::trainer
