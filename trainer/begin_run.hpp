#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "trainer/checkpoint/manifest.hpp"
#include "trainer/config.hpp"

namespace perrin::trainer {

/// Makes the folder of a run that begins with given weights: config.toml and a checkpoint of step 0, whose averages are
/// the weights and whose Adam moments are 0. train() goes on from there.
/// @param origin   of the run; its configuration is the text of `config`
/// @param weights  the network's parameters by name, all of them, fp32
/// @throws RunError if the folder cannot be written or another process holds it; CheckpointError if the checkpoint
/// could not be written
void begin_run(const Config& config, const CheckpointOrigin& origin, const std::map<std::string, at::Tensor>& weights);

}  // namespace perrin::trainer
