#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "data/manifest.hpp"
#include "launch/config/config_error.hpp"
#include "trainer/config.hpp"

namespace perrin::launch {

/// Where the value of a key comes from: "FILE:LINE", "command line", or the file's name for a default.
using PlaceOf = std::function<std::string(std::string_view key)>;

/// Refuses values that are fine each but do not fit together, such as channels that the groups do not divide.
/// @throws ConfigError at the place of the key to change
void check_consistency(const trainer::Config& config, const PlaceOf& place_of);

/// Refuses self-attention at a height that no level of the U-Net has: it would silently be left out.
/// @param height  of the images; every level halves it
/// @throws ConfigError
void check_attention_resolutions(const trainer::ModelConfig& model, std::int64_t height, const std::string& place);

/// Refuses a class-conditional model for a dataset without labels, with some missing where every one is needed, or with
/// another number of classes. @throws ConfigError
void check_classes(const trainer::ModelConfig& model, const data::Manifest& manifest, const std::string& dataset,
                   const std::string& place);

/// Refuses a number of ranks that the configuration cannot use: more than images in a global batch, or, with
/// reproducible reduction, no power of two or more than shards. @throws ConfigError
void check_ranks(const trainer::Config& config, int ranks, const PlaceOf& place_of);

}  // namespace perrin::launch
