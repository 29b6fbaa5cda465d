#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"

namespace perrin::trainer {

/// A model that another program made: no run comes with it, and one set of weights.
struct ImportedModel {
  Config config;  ///< [model], [diffusion] and clipping are the model's; all else has its default
  data::ImageShape shape;
  std::map<std::string, at::Tensor> weights;  ///< by parameter name, fp32, CPU, finite
};

}  // namespace perrin::trainer
