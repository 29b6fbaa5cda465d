#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"

namespace perrin::trainer {

/// Writes a folder that diffusers' DDPMPipeline.from_pretrained loads: model_index.json, unet/ (UNet2DModel, float32
/// safetensors) and scheduler/ (DDPMScheduler). It appears under its name only when it is whole and on the device.
/// Every key of both configurations is written, since diffusers' defaults are not DDPM's and load without a word.
/// A class-conditional network that was trained with label dropout gets one class more, the last, whose vector is 0:
/// the null class of guidance, named `perrin_null_class` in the safetensors header.
/// @param config    out_channels may be 0: it follows the variance type
/// @param weights   the network's parameters by name (unet_parameters), converted to float32
/// @param metadata  free text for the safetensors header, e.g. which EMA at which step
/// @throws std::invalid_argument when parameters are missing, foreign or of another shape, or the configuration cannot
/// be built;
///         data::DataError when diffusers cannot express the model (prediction edm, residual_scale other than 1, heads
///         of different sizes), a weight is not finite, the folder exists (nothing is overwritten), or it cannot be
///         written
void export_diffusers(const std::filesystem::path& folder, const ModelConfig& config, const DiffusionConfig& diffusion,
                      const data::ImageShape& shape, const std::map<std::string, at::Tensor>& weights,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace perrin::trainer
