#pragma once

#include <string>
#include <utility>
#include <vector>

#include "trainer/config.hpp"

namespace perrin::trainer {

/// What the run says of a model, for those who get it.
struct ModelFacts {
  std::string title;
  std::vector<std::pair<std::string, std::string>> rows;  ///< such as {"Weights", "EMA 0.9999 after 800000 steps"}
  std::string config;                                     ///< resolved configuration as TOML; empty: unknown
};

/// README.md of an exported folder, as the Hugging Face Hub reads it: facts, a Python snippet that runs in the folder,
/// the configuration. The licence is left to whoever publishes the model.
std::string model_card(const ModelFacts& facts, const ModelConfig& model, const DiffusionConfig& diffusion);

}  // namespace perrin::trainer
