#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <filesystem>
#include <map>
#include <string>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/interchange/model_card.hpp"

namespace perrin::trainer {

/// What an exported folder is beside the network.
struct ExportOptions {
  at::ScalarType type = at::kFloat;             ///< of the weights: kFloat, kHalf or kBFloat16
  std::map<std::string, std::string> metadata;  ///< free text for the safetensors header, e.g. which EMA at which step
  ModelFacts facts;                             ///< for the model card
};

/// Writes a folder that diffusers' DDPMPipeline.from_pretrained loads: model_index.json, unet/ (UNet2DModel with
/// safetensors), scheduler/ (DDPMScheduler), README.md (a model card) and, for a model that DDPMPipeline cannot sample
/// from in full (needs_own_pipeline), pipeline.py. It appears under its name only when it is whole and on the device.
/// A class-conditional network that was trained with label dropout gets one class more, the last, whose vector is 0:
/// the null class of guidance, named `null_class` in model_index.json.
/// @param config    out_channels may be 0: it follows the variance type
/// @param weights   the network's parameters by name (unet_parameters)
/// @throws std::invalid_argument when parameters are missing, foreign or of another shape, or the configuration cannot
/// be built;
///         data::DataError when diffusers cannot express the model (prediction edm, residual_scale other than 1, heads
///         of different sizes), a weight is not finite in the type asked for, the folder exists (nothing is
///         overwritten), or it cannot be written
void export_diffusers(const std::filesystem::path& folder, const ModelConfig& config, const DiffusionConfig& diffusion,
                      const data::ImageShape& shape, const std::map<std::string, at::Tensor>& weights,
                      const ExportOptions& options = {});

}  // namespace perrin::trainer
