#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "data/image_shape.hpp"

namespace perrin::launch {

/// A model that comes without its run, and with one set of weights.
struct LooseModel {
  std::string config;  ///< as TOML
  data::ImageShape shape;
  std::map<std::string, at::Tensor> weights;  ///< by parameter name, fp32, CPU
  std::string weights_name;                   ///< as the exporting run called them, or "imported"
  std::int64_t step = 0;                      ///< of that run; 0: unknown
  std::string dataset_fingerprint;            ///< of that run; empty: unknown
};

/// Whether a path is a diffusers folder or a single file, rather than a run or a checkpoint.
bool is_loose_model(const std::filesystem::path& path);

/// Reads a diffusers folder, or a file of `perrin export --single-file`.
/// @throws data::DataError naming the file and what perrin cannot follow; ConfigError for a configuration in a file
/// that this program does not understand
LooseModel read_loose_model(const std::filesystem::path& path);

}  // namespace perrin::launch
