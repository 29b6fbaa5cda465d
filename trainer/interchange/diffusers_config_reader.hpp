#pragma once

#include <filesystem>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"

/// Reads what diffusers_config.hpp writes, and what others have written: a key that is absent has diffusers' default,
/// which is not DDPM's, and a key that perrin cannot follow is refused by its name.
namespace perrin::trainer {

/// A network as a UNet2DModel's config.json says. Its last class may be a null class, which only the weights tell.
struct NetworkDescription {
  ModelConfig model;  ///< with its output channels
  data::ImageShape shape;
};
/// @throws data::DataError naming the file and the key
NetworkDescription read_unet_config(const std::filesystem::path& file);

/// The process a network was trained for, and how its predictions are clipped, as a scheduler_config.json says. What
/// chooses timesteps is passed over: perrin's samplers have settings of their own.
struct ProcessDescription {
  DiffusionConfig diffusion;
  ClipX0 clip = ClipX0::fixed;
  double clip_percentile = 0.995;
};
/// @throws data::DataError naming the file and the key
ProcessDescription read_scheduler_config(const std::filesystem::path& file);

}  // namespace perrin::trainer
