#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"

/// The JSON files that say to diffusers what a model is. Every key is written: diffusers' defaults are OpenAI's
/// conventions, not DDPM's, and load without a word.
namespace perrin::trainer {

/// Refuses what UNet2DModel and DDPMScheduler have no key for: it would load all the same, and make other images.
/// @param folder  that is to be written, for the message
/// @throws data::DataError naming the key and the remedy
void check_expressible(const std::filesystem::path& folder, const ModelConfig& model, const DiffusionConfig& diffusion,
                       const data::ImageShape& shape);

/// Whether the network was trained without labels too. diffusers knows no label -1, so that the export has one class
/// more, the last, whose vector is 0.
bool has_null_class(const ModelConfig& model);

/// unet/config.json. @param model  with its output channels
nlohmann::ordered_json unet_config(const ModelConfig& model, const data::ImageShape& shape);

/// scheduler/scheduler_config.json.
nlohmann::ordered_json scheduler_config(const DiffusionConfig& diffusion);

/// Whether the folder has a pipeline.py: DDPMPipeline passes no class labels, and no scheduler but its own can tell the
/// channels of a learned variance from the prediction.
bool needs_own_pipeline(const ModelConfig& model, const DiffusionConfig& diffusion);

/// model_index.json.
nlohmann::ordered_json model_index(const ModelConfig& model);

}  // namespace perrin::trainer
