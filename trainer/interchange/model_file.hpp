#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <filesystem>
#include <map>
#include <string>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"

/// A whole model in one safetensors file: the weights by diffusers' names, and in the header what builds the network
/// again: "perrin_model" (the format's version), "perrin_image_shape" and "perrin_config".
namespace perrin::trainer {

/// What such a file holds.
struct ModelFile {
  std::string config;  ///< resolved configuration of the run as TOML
  data::ImageShape shape;
  std::map<std::string, std::string> metadata;  ///< besides
  std::map<std::string, at::Tensor> weights;    ///< by parameter name
};

/// Writes a new file; it appears under its name only when it is whole and on the device.
/// @param model   that the configuration says
/// @param type    of the weights: kFloat, kHalf or kBFloat16
/// @throws as exported_weights; data::DataError also when the file exists (nothing is overwritten) or cannot be written
void write_model_file(const std::filesystem::path& path, const ModelFile& file, const ModelConfig& model,
                      const DiffusionConfig& diffusion, at::ScalarType type);

/// Reads a file; the weights are as they are stored, and not yet compared with the configuration.
/// @throws data::DataError for a safetensors file that is damaged, or that write_model_file did not write
ModelFile read_model_file(const std::filesystem::path& path);

}  // namespace perrin::trainer
