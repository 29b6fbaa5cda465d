#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

#include "comm/communicator.hpp"
#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/interrupt.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {

/// Draws rows * columns images of config.sample, each keyed by (sample.seed, its index): every rank its share, in whole
/// batches of sample.batch_size. Neither the number of ranks nor their shares show in the images, and on the CPU
/// neither does the size of the batches (sample_tiles). Collective.
/// @param interrupt asked before every batch; empty: nobody interrupts
/// @throws RunError where sample.sigma_min and sample.sigma_max leave nothing of the schedule
/// @return uint8 [rows * columns, C, H, W] on the CPU, the same on every rank; nullopt if interrupted
std::optional<at::Tensor> sample_images(const UNet& model, const Config& config, const data::ImageShape& shape,
                                        comm::Communicator& control, at::Device device,
                                        const Interrupt& interrupt = {});

/// How the first images of config.sample come to be: the x_0 that the network predicts at evenly chosen evaluations
/// (Ho et al. 2020, figure 6), then the image itself, which is that of sample_images. Not collective.
/// @param pictures  of each image, at least 2
/// @return uint8 [images * pictures, C, H, W] on the CPU, one image after the other
at::Tensor sample_progression(const UNet& model, const Config& config, const data::ImageShape& shape, at::Device device,
                              std::int64_t images, std::int64_t pictures);

}  // namespace perrin::trainer
